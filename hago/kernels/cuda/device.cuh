// What kernels ask of the hardware, in inline PTX. It stands before the source that TVM generates.
// tests/emulated_block.h defines the same names by their meaning, for a block of threads that runs on a processor.
#pragma once
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

// TVM's names.
#define CUDART_INF_F __int_as_float(0x7F800000)
#define CUDART_NAN_F __int_as_float(0x7FC00000)
#define CUDART_INF __longlong_as_double(0x7FF0000000000000ll)
#define CUDART_NAN __longlong_as_double(0x7FF8000000000000ll)

#define HAGO_DEVICE static __device__ __forceinline__

namespace hago {

HAGO_DEVICE uint shared_address(const void* at) { return (uint)__cvta_generic_to_shared(at); }

// Values of N bytes.
template <int N> struct Bytes;
template <> struct Bytes<16> { typedef int4 type; };
template <> struct Bytes<8> { typedef int2 type; };
template <> struct Bytes<4> { typedef int type; };
template <> struct Bytes<2> { typedef short type; };
template <> struct Bytes<1> { typedef char type; };
HAGO_DEVICE void fill(int4* to, int word) { *to = make_int4(word, word, word, word); }
HAGO_DEVICE void fill(int2* to, int word) { *to = make_int2(word, word); }
HAGO_DEVICE void fill(int* to, int word) { *to = word; }

// Copies N bytes, or zeros where not ``inside``, at once.
template <int N>
HAGO_DEVICE void copy_now(void* to, const void* from, bool inside) {
  typedef typename Bytes<N>::type Value;
  *(Value*)to = inside ? *(const Value*)from : Value();
}

#if __CUDA_ARCH__ >= 800
// Begins to copy N bytes (4, 8 or 16), of which those beyond ``count`` become zero.
template <int N>
HAGO_DEVICE void begin_copy(void* to, const void* from, int count = N) {
  if (N == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(count) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(N), "r"(count)
                 : "memory");
}
#endif

// Begins to copy N bytes (4, 8 or 16), from + offset, to shared memory where ``inside``; else stores ``word``, at once.
template <int N>
HAGO_DEVICE void copy_or_fill(void* to, const void* from, int offset, bool inside, int word) {
  typedef typename Bytes<N>::type Value;
#if __CUDA_ARCH__ >= 800
  if (inside) begin_copy<N>(to, (const char*)from + offset);
  else fill((Value*)to, word);
#else
  Value value;
  fill(&value, word);
  if (inside) value = *(const Value*)((const char*)from + offset);
  *(Value*)to = value;
#endif
}

// Begins to copy N bytes, from + offset, or zeros where not ``inside``; below 4 bytes, at once.
template <int N>
HAGO_DEVICE void copy_or_zero(void* to, const void* from, int offset, bool inside) {
  const void* source = (const char*)from + (inside ? offset : 0);
#if __CUDA_ARCH__ >= 800
  if (N >= 4) {
    begin_copy<(N < 4 ? 4 : N)>(to, source, inside ? N : 0);
    return;
  }
#endif
  copy_now<N>(to, source, inside);
}

// Closes the group of copies begun since the last one; before sm_80 all have arrived already.
HAGO_DEVICE void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the last N groups have arrived.
template <int N>
HAGO_DEVICE void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Four matrices of 8 rows of 16 bytes; lane l names row l % 8 of matrix l / 8.
HAGO_DEVICE void load_matrices(uint* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// sums[16 x 8] += a[16 x K] b[8 x K]^T, spread over the lanes of a warp; K is 32 bytes.
#define HAGO_MMA(NAME, SUM, SHAPE, TYPES, LETTER)                                                                \
  HAGO_DEVICE void NAME(SUM* sums, const uint* a, const uint* b) {                                               \
    asm volatile("mma.sync.aligned." SHAPE ".row.col." TYPES                                                     \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                              \
                 : "+" LETTER(sums[0]), "+" LETTER(sums[1]), "+" LETTER(sums[2]), "+" LETTER(sums[3])            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                            \
  }
// The same out of four products of 8 rows by 16 bytes, and out of two of 16 rows by 16 bytes.
#define HAGO_QUARTERS(NAME, SHAPE, TYPES)                                                                               \
  HAGO_DEVICE void NAME(int* sums, const uint* a, const uint* b) {                                               \
    for (int i = 0; i < 4; i++)                                                                                  \
      asm volatile("mma.sync.aligned." SHAPE ".row.col." TYPES " {%0, %1}, {%2}, {%3}, {%0, %1};"                  \
                   : "+r"(sums[i % 2 * 2]), "+r"(sums[i % 2 * 2 + 1])                                            \
                   : "r"(a[i]), "r"(b[i / 2]));                                                                  \
  }
#define HAGO_HALVES(NAME, TYPES)                                                                                 \
  HAGO_DEVICE void NAME(float* sums, const uint* a, const uint* b) {                                             \
    for (int i = 0; i < 2; i++)                                                                                  \
      asm volatile("mma.sync.aligned.m16n8k8.row.col." TYPES " {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};" \
                   : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                  \
                   : "r"(a[i * 2]), "r"(a[i * 2 + 1]), "r"(b[i]));                                               \
  }
#if __CUDA_ARCH__ >= 800
HAGO_MMA(mma_u8s8, int, "m16n8k32", "s32.u8.s8.s32", "r")
HAGO_MMA(mma_s8s8, int, "m16n8k32", "s32.s8.s8.s32", "r")
HAGO_MMA(mma_u8u8, int, "m16n8k32", "s32.u8.u8.s32", "r")
#if __CUDA_ARCH__ < 900
HAGO_MMA(mma_u4s4, int, "m16n8k64", "s32.u4.s4.s32", "r")
#endif
HAGO_MMA(mma_f16, float, "m16n8k16", "f32.f16.f16.f32", "f")
HAGO_MMA(mma_bf16, float, "m16n8k16", "f32.bf16.bf16.f32", "f")
#else
HAGO_QUARTERS(mma_u8s8, "m8n8k16", "s32.u8.s8.s32")
HAGO_QUARTERS(mma_s8s8, "m8n8k16", "s32.s8.s8.s32")
HAGO_QUARTERS(mma_u4s4, "m8n8k32", "s32.u4.s4.s32")
HAGO_QUARTERS(mma_u8u8, "m8n8k16", "s32.u8.u8.s32")
HAGO_HALVES(mma_f16, "f32.f16.f16.f32")
#endif
#undef HAGO_MMA
#undef HAGO_QUARTERS
#undef HAGO_HALVES

// Of four words as the rows of a matrix of bytes: its columns.
HAGO_DEVICE void transpose_bytes(uint* rows) {
  const uint a = __byte_perm(rows[0], rows[1], 0x5140), b = __byte_perm(rows[2], rows[3], 0x5140);
  const uint c = __byte_perm(rows[0], rows[1], 0x7362), d = __byte_perm(rows[2], rows[3], 0x7362);
  rows[0] = __byte_perm(a, b, 0x5410);
  rows[1] = __byte_perm(a, b, 0x7632);
  rows[2] = __byte_perm(c, d, 0x5410);
  rows[3] = __byte_perm(c, d, 0x7632);
}

// A matrix product that a warpgroup (4 warps, 64 rows) begins: its operands lie in shared memory in rows of 128 bytes, whose
// 16-byte chunks are permuted by the row's number modulo 8 (Hopper alone: sm_90a).
#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Names such rows; they begin at a multiple of 1024 bytes. Two more are 32 bytes further along k.
HAGO_DEVICE unsigned long long wgmma_rows(const void* first) {
  const unsigned long long start = (shared_address(first) & 0x3FFFF) >> 4, eight_rows = 1024 >> 4, swizzle_128 = 1;
  return start | 1ull << 16 | eight_rows << 32 | swizzle_128 << 62;
}

// Makes what this thread stored in shared memory visible to matrix products.
HAGO_DEVICE void show_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
HAGO_DEVICE void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
HAGO_DEVICE void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
HAGO_DEVICE void wait_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// sums[64 x N] += a[64 x K] b[N x K]^T; K is 32 bytes.

// The names of the first 32, 64 and 128 operands, and as many sums as operands.
#define HAGO_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HAGO_NAMES_64 \
  HAGO_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HAGO_NAMES_128 \
  HAGO_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
  "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, " \
  "%103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, " \
  "%119, %120, %121, %122, %123, %124, %125, %126, %127"
#define HAGO_SUMS_4(L, I) L(sums[I]), L(sums[I + 1]), L(sums[I + 2]), L(sums[I + 3])
#define HAGO_SUMS_16(L, I) HAGO_SUMS_4(L, I), HAGO_SUMS_4(L, I + 4), HAGO_SUMS_4(L, I + 8), HAGO_SUMS_4(L, I + 12)
#define HAGO_SUMS_32(L) HAGO_SUMS_16(L, 0), HAGO_SUMS_16(L, 16)
#define HAGO_SUMS_64(L) HAGO_SUMS_32(L), HAGO_SUMS_16(L, 32), HAGO_SUMS_16(L, 48)
#define HAGO_SUMS_128(L) \
  HAGO_SUMS_64(L), HAGO_SUMS_16(L, 64), HAGO_SUMS_16(L, 80), HAGO_SUMS_16(L, 96), HAGO_SUMS_16(L, 112)

// One width N: COUNT sums for each thread, of the constraint L; A, B and ADD are the names of the operands behind them,
// and LAST what follows ADD (for floats: factors of 1, and neither operand transposed).
#define HAGO_WGMMA(NAME, SUM, L, TYPES, LAST, N, COUNT, A, B, ADD)                                               \
  template <>                                                                                                    \
  __device__ __forceinline__ void NAME<N>(SUM* sums, unsigned long long a, unsigned long long b) {               \
    asm volatile("{.reg .pred add; setp.ne.b32 add, " ADD ", 0; wgmma.mma_async.sync.aligned.m64n" #N TYPES      \
                 " {" HAGO_NAMES_##COUNT "}, " A ", " B ", add" LAST ";}"                                        \
                 : HAGO_SUMS_##COUNT(L)                                                                          \
                 : "l"(a), "l"(b), "r"(1));                                                                      \
  }
#define HAGO_WGMMAS(NAME, SUM, L, TYPES, LAST)                                    \
  template <int N>                                                               \
  HAGO_DEVICE void NAME(SUM* sums, unsigned long long a, unsigned long long b);   \
  HAGO_WGMMA(NAME, SUM, L, TYPES, LAST, 64, 32, "%32", "%33", "%34")              \
  HAGO_WGMMA(NAME, SUM, L, TYPES, LAST, 128, 64, "%64", "%65", "%66")             \
  HAGO_WGMMA(NAME, SUM, L, TYPES, LAST, 256, 128, "%128", "%129", "%130")
HAGO_WGMMAS(wgmma_u8s8, int, "+r", "k32.s32.u8.s8", "")
HAGO_WGMMAS(wgmma_s8s8, int, "+r", "k32.s32.s8.s8", "")
HAGO_WGMMAS(wgmma_f16, float, "+f", "k16.f32.f16.f16", ", 1, 1, 0, 0")
HAGO_WGMMAS(wgmma_bf16, float, "+f", "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
#endif

// Lets the next kernel of the stream start, and waits until what earlier kernels wrote can be read: both say nothing
// unless the kernel is launched that way.
HAGO_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
HAGO_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// sum + the products of four bytes of a, unsigned, with those of b, signed.
HAGO_DEVICE int dp4a_u8s8(int a, int b, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}

// Four of the eight bytes of a and b, as the four digits of ``order`` number them, the lowest byte first.
HAGO_DEVICE int bytes_of(int a, int b, int order) { return (int)__byte_perm(a, b, order); }

// float32 to the nearest integer, half to even.
HAGO_DEVICE int nearest(float value) { return __float2int_rn(value); }

// What the lane whose number differs in the bits of ``mask`` brings; all lanes of the warp must be here.
template <class T>
HAGO_DEVICE T exchange(T value, int mask) { return (T)__shfl_xor_sync(0xFFFFFFFFu, value, mask); }

// TVM's maximum and minimum: b where the comparison with a NaN fails.
template <class A, class B>
HAGO_DEVICE auto larger(A a, B b) { return a > b ? a : b; }
template <class A, class B>
HAGO_DEVICE auto smaller(A a, B b) { return a < b ? a : b; }

// One rounding.
HAGO_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
HAGO_DEVICE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

}  // namespace hago

// float16 as memory holds it: arithmetic is that of float32, and storing rounds half to even.
struct half {
  ushort bits;
  half() = default;
  __device__ __forceinline__ half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
  __device__ __forceinline__ operator float() const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
};
#define __float2half_rn(VALUE) half(VALUE)

// So does the code that TVM writes call them; those of CUDA would drop a NaN.
#define max hago::larger
#define min hago::smaller
