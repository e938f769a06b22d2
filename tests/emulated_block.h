// The names that CUDA and hago/kernels/cuda/device.cuh give to kernels, by their meaning on one thread of a processor.
// The source that also goes to NVRTC is compiled with this header; emulated_block.cpp runs its threads.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
struct Index { int x, y, z; };
extern Index blockIdx, threadIdx, blockDim, gridDim;

#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
#define CUDART_NAN __builtin_nan("")
#define __global__
#define __restrict__
#define __launch_bounds__(...)

namespace emulated {

enum Fault { NONE, DIVERGENT, OUTSIDE_OF_MEMORY, NEVER_WAITED_FOR, MISALIGNED };

// What one lane brings to what its warp does together: where its result goes, and its operands.
struct Brought { void* to; const void *a, *b; };
typedef void (*Together)(Brought* lanes);  // of all 32

void fail(Fault fault);
void wait_for_block();
void wait_for_warp();
void together(Together what, Brought brought);  // done when all lanes of the warp have brought theirs
int lane();

// Shared memory number ``slot``, which begins with random bytes and ends at a page that cannot be touched.
uchar* shared_bytes(int slot, int bytes);
template <class T, int N>
T (&shared_array(int slot))[N] { return *(T(*)[N])shared_bytes(slot, N * sizeof(T)); }

void begin_copy(void* to, const void* from, int bytes);  // null: zeros; arrives at a random moment until it is waited for
void commit_copies();
void wait_copies(int but);  // the last groups

typedef void (*Multiply)(int* sums, unsigned long long a, unsigned long long b, int thread);
void begin_product(Multiply multiply, int* sums, unsigned long long a, unsigned long long b);  // also
void commit_products();
void wait_products(int but);
unsigned long long rows_of_128(const void* first);

void load_matrices(Brought* lanes);
template <class A, class B>
void mma_m16n8k32(Brought* lanes);
void mma_m16n8k64(Brought* lanes);
float of_float16(ushort bits);
float of_bfloat16(ushort bits);
template <float (*Real)(ushort)>
void mma_m16n8k16(Brought* lanes);
template <class A, class B, int N>
void wgmma_m64k32(int* sums, unsigned long long a, unsigned long long b, int thread);
template <float (*Real)(ushort), int N>
void wgmma_m64k16(int* sums, unsigned long long a, unsigned long long b, int thread);  // sums are float32

// Of another lane; each brings its value and the number of the lane that it wants.
template <class T>
void shuffle(Brought* lanes) {
  for (int i = 0; i < 32; i++) *(T*)lanes[i].to = *(const T*)lanes[*(const int*)lanes[i].b & 31].a;
}
template <class T>
T from_lane(T value, int lane) {
  T result;
  together(shuffle<T>, {&result, &value, &lane});
  return result;
}

}  // namespace emulated

#define __syncthreads() emulated::wait_for_block()
#define __syncwarp(...) emulated::wait_for_warp()

template <class T> T __shfl_sync(uint, T value, int lane, int = 32) { return emulated::from_lane(value, lane); }
template <class T> T __shfl_xor_sync(uint, T value, int mask, int = 32) { return emulated::from_lane(value, emulated::lane() ^ mask); }
template <class T> T __shfl_down_sync(uint, T value, int by, int = 32) { return emulated::from_lane(value, emulated::lane() + by < 32 ? emulated::lane() + by : emulated::lane()); }

static inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
  return sum;
}

namespace hago {

template <int N>
static inline void copy_or_fill(void* to, const void* from, int offset, bool inside, int word) {
  if (inside) emulated::begin_copy(to, (const char*)from + offset, N);
  else if ((uintptr_t)to % N) emulated::fail(emulated::MISALIGNED);
  else for (int i = 0; i < N; i += 4) memcpy((char*)to + i, &word, 4);
}
template <int N>
static inline void copy_or_zero(void* to, const void* from, int offset, bool inside) {
  const char* source = (const char*)from + offset;
  if (N >= 4) emulated::begin_copy(to, inside ? source : nullptr, N);
  else if (inside) memcpy(to, source, N);
  else memset(to, 0, N);
}
static inline void commit_copies() { emulated::commit_copies(); }
template <int N>
static inline void wait_copies() { emulated::wait_copies(N); }

static inline unsigned long long wgmma_rows(const void* first) { return emulated::rows_of_128(first); }
static inline void show_to_wgmma() {}
static inline void begin_wgmma() {}
static inline void commit_wgmma() { emulated::commit_products(); }
template <int N>
static inline void wait_wgmma() { emulated::wait_products(N); }
template <int N>
static inline void wgmma_u8s8(int* sums, unsigned long long a, unsigned long long b) {
  emulated::begin_product(emulated::wgmma_m64k32<uint8_t, int8_t, N>, sums, a, b);
}
template <int N>
static inline void wgmma_f16(float* sums, unsigned long long a, unsigned long long b) {
  emulated::begin_product(emulated::wgmma_m64k16<emulated::of_float16, N>, (int*)sums, a, b);
}
template <int N>
static inline void wgmma_bf16(float* sums, unsigned long long a, unsigned long long b) {
  emulated::begin_product(emulated::wgmma_m64k16<emulated::of_bfloat16, N>, (int*)sums, a, b);
}
template <int N>
static inline void wgmma_s8s8(int* sums, unsigned long long a, unsigned long long b) {
  emulated::begin_product(emulated::wgmma_m64k32<int8_t, int8_t, N>, sums, a, b);
}

static inline void let_next_start() {}
static inline void wait_for_previous() {}

static inline void load_matrices(uint* to, const void* row) { emulated::together(emulated::load_matrices, {to, row, nullptr}); }
static inline void mma_u8s8(int* sums, const uint* a, const uint* b) {
  emulated::together(emulated::mma_m16n8k32<uint8_t, int8_t>, {sums, a, b});
}
static inline void mma_s8s8(int* sums, const uint* a, const uint* b) {
  emulated::together(emulated::mma_m16n8k32<int8_t, int8_t>, {sums, a, b});
}

static inline void mma_u4s4(int* sums, const uint* a, const uint* b) { emulated::together(emulated::mma_m16n8k64, {sums, a, b}); }
static inline void mma_u8u8(int* sums, const uint* a, const uint* b) {
  emulated::together(emulated::mma_m16n8k32<uint8_t, uint8_t>, {sums, a, b});
}
static inline void mma_f16(float* sums, const uint* a, const uint* b) {
  emulated::together(emulated::mma_m16n8k16<emulated::of_float16>, {sums, a, b});
}
static inline void mma_bf16(float* sums, const uint* a, const uint* b) {
  emulated::together(emulated::mma_m16n8k16<emulated::of_bfloat16>, {sums, a, b});
}
static inline void transpose_bytes(uint* rows) {
  uchar from[4][4], to[4][4];
  memcpy(from, rows, 16);
  for (int i = 0; i < 16; i++) to[i % 4][i / 4] = from[i / 4][i % 4];
  memcpy(rows, to, 16);
}

static inline int dp4a_u8s8(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += (int)(uint8_t)(a >> i) * (int)(int8_t)(b >> i);
  return sum;
}
static inline int bytes_of(int a, int b, int order) {
  const uint64_t both = (uint64_t)(uint)b << 32 | (uint)a;
  uint result = 0;
  for (int i = 0; i < 4; i++) result |= (uint)(both >> (order >> 4 * i & 7) * 8 & 255) << 8 * i;
  return (int)result;
}
template <class T>
static inline T exchange(T value, int mask) { return emulated::from_lane(value, emulated::lane() ^ mask); }
template <class A, class B>
static inline auto larger(A a, B b) { return a > b ? a : b; }
template <class A, class B>
static inline auto smaller(A a, B b) { return a < b ? a : b; }
static inline int nearest(float value) {
  if (value != value) return 0;
  return value >= 2147483648.f ? INT32_MAX : value < -2147483648.f ? INT32_MIN : (int)std::nearbyint(value);
}
static inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
static inline double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

}  // namespace hago

static inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
static inline double rsqrt(double value) { return 1 / std::sqrt(value); }

// As device.cuh has it.
struct half {
  ushort bits;
  half() = default;
  half(float value) {
    const _Float16 rounded = (_Float16)value;
    memcpy(&bits, &rounded, 2);
  }
  operator float() const {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return (float)value;
  }
};
#define __float2half_rn(VALUE) half(VALUE)

#define max hago::larger
#define min hago::smaller
