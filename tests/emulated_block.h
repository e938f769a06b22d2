// A block of CUDA threads on one thread of a processor, for the source that also goes to NVRTC.
//
// Each CUDA thread is a fiber. Fibers run in random order from one barrier to the next, and one warp runs ahead of all
// others until it must wait for the block. What a warp executes together (mma, ldmatrix) is computed from its definition,
// out of what all lanes brought. Copies that are asynchronous on a GPU arrive at a random moment between their start and
// the wait for them. Shared memory begins with random bytes. Arrays end at a page that cannot be touched.
// A run returns one of `Fault`.
#pragma once
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) int2 { int x, y; };
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
struct Index { int x, y, z; };
static Index blockIdx, threadIdx, blockDim, gridDim;

#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
#define CUDART_NAN __builtin_nan("")
#define __global__
#define __restrict__
#define __launch_bounds__(...)

namespace emulated {

enum Fault { NONE, DIVERGENT_BARRIER, OUTSIDE_OF_MEMORY, NEVER_WAITED_FOR, MISALIGNED };
enum Waits { NOTHING, WARP, BLOCK };

struct Copy {
  void* to;
  const void* from;  // null: zeros
  int group;
  bool arrived;

  void arrive() {
    if (arrived) return;
    if (from) memcpy(to, from, 16); else memset(to, 0, 16);
    arrived = true;
  }
};

struct Product {  // that a warpgroup began; this lane's part of it
  std::function<void()> compute;
  int group;
};

struct Fiber {
  ucontext_t context;
  char* stack = nullptr;
  Waits waits;
  bool done;
  Index index;
  std::vector<Copy> copies;
  int groups;  // of copies, closed
  std::vector<Product> products;
  int product_groups;
};

const size_t STACK = 1 << 17, PAGE = 4096;
const int LANES = 32, SHARED = 232448;  // bytes of shared memory, which end at a page that cannot be touched
static uchar* shared;
static std::vector<Fiber> fibers;
static int current;
static ucontext_t scheduler;
static std::function<void()> kernel;
static std::mt19937 chance;
static sigjmp_buf escape;

static void fail(Fault fault) { siglongjmp(escape, fault); }
static void touched_outside(int, siginfo_t*, void*) { siglongjmp(escape, OUTSIDE_OF_MEMORY); }

static void wait(Waits waits) {
  Fiber& fiber = fibers[current];
  fiber.waits = waits;
  swapcontext(&fiber.context, &scheduler);
  threadIdx = fiber.index;
}

static void run_fiber() {
  kernel();
  fibers[current].done = true;
  swapcontext(&fibers[current].context, &scheduler);
}

static uchar* pages_of(size_t bytes) {  // with a page before and after them that cannot be touched
  uchar* pages = (uchar*)mmap(nullptr, bytes + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(pages, PAGE, PROT_NONE);
  mprotect(pages + PAGE + bytes, PAGE, PROT_NONE);
  return pages + PAGE;
}

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static void start(int threads) {
  if (!shared) shared = pages_of(whole_pages(SHARED)) + whole_pages(SHARED) - SHARED;
  for (int i = 0; i < SHARED; i += 4) { uint word = chance(); memcpy(shared + i, &word, 4); }
  if ((int)fibers.size() != threads) {
    for (auto& fiber : fibers) free(fiber.stack);
    fibers.assign(threads, Fiber());
    for (auto& fiber : fibers) fiber.stack = (char*)malloc(STACK);
  }
  for (int i = 0; i < threads; i++) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    fiber.waits = NOTHING;
    fiber.done = false;
    fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    fiber.copies.clear();
    fiber.products.clear();
    fiber.groups = fiber.product_groups = 0;
    makecontext(&fiber.context, run_fiber, 0);
  }
}

// Runs one warp until all its lanes are done or wait for the block; whether any lane ran.
static bool run_warp(int first, int end) {
  std::vector<int> lanes(end - first);
  for (size_t i = 0; i < lanes.size(); i++) lanes[i] = first + i;
  for (bool any = false;;) {
    bool ran = false;
    std::shuffle(lanes.begin(), lanes.end(), chance);
    for (int i : lanes)
      if (!fibers[i].done && fibers[i].waits == NOTHING) {
        current = i;
        threadIdx = fibers[i].index;
        swapcontext(&scheduler, &fibers[i].context);
        ran = any = true;
      }
    auto at_warp = [](int i) { return !fibers[i].done && fibers[i].waits == WARP; };
    if (std::all_of(lanes.begin(), lanes.end(), at_warp)) for (int i : lanes) fibers[i].waits = NOTHING;
    else if (!ran) return any;
  }
}

static void run_block(int threads) {
  start(threads);
  std::vector<int> warps((threads + LANES - 1) / LANES);
  for (size_t i = 0; i < warps.size(); i++) warps[i] = i;
  for (;;) {
    bool ran = false;
    std::shuffle(warps.begin(), warps.end(), chance);
    for (int warp : warps) ran |= run_warp(warp * LANES, std::min(threads, (warp + 1) * LANES));
    if (ran) continue;
    auto done = [](const Fiber& fiber) { return fiber.done; };
    if (std::all_of(fibers.begin(), fibers.end(), done)) break;
    for (auto& fiber : fibers) {
      if (fiber.done || fiber.waits != BLOCK) fail(DIVERGENT_BARRIER);
      fiber.waits = NOTHING;
    }
  }
  for (auto& fiber : fibers)
    if (!fiber.copies.empty() || !fiber.products.empty()) fail(NEVER_WAITED_FOR);
}

// A copy of an array, between pages that cannot be touched; it ends where the second one begins.
struct Guarded {
  uchar *pages, *data;

  Guarded(const void* from, size_t bytes) : pages(pages_of(whole_pages(bytes))) {
    data = pages + whole_pages(bytes) - (bytes + 15) / 16 * 16;
    memcpy(data, from, bytes);
  }
  void release(void* to, size_t bytes) {
    memcpy(to, data, bytes);
    munmap(pages - PAGE, whole_pages(bytes) + 2 * PAGE);
  }
};

// Runs a grid, its blocks in random order.
static int run(Index grid, Index block, unsigned seed, std::function<void()> body) {
  gridDim = grid;
  blockDim = block;
  chance.seed(seed);
  kernel = body;
  struct sigaction here = {}, segv, bus;
  here.sa_sigaction = touched_outside;
  here.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &here, &segv);
  sigaction(SIGBUS, &here, &bus);
  const int fault = sigsetjmp(escape, 1);
  if (!fault) {
    std::vector<int> blocks(grid.x * grid.y * grid.z);
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = i;
    std::shuffle(blocks.begin(), blocks.end(), chance);
    for (int i : blocks) {
      blockIdx = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
      run_block(block.x * block.y * block.z);
    }
  }
  sigaction(SIGSEGV, &segv, nullptr);
  sigaction(SIGBUS, &bus, nullptr);
  return fault;
}

static uchar* dynamic_shared(int bytes) {
  if (bytes > SHARED) fail(OUTSIDE_OF_MEMORY);
  return shared + SHARED - (bytes + 1023) / 1024 * 1024;
}

static void begin_copy(void* to, const void* from) {
  if (((uintptr_t)to | (uintptr_t)from) % 16) fail(MISALIGNED);
  if (from) { volatile uchar touch = *(const uchar*)from; (void)touch; }
  Fiber& fiber = fibers[current];
  fiber.copies.push_back({to, from, fiber.groups, false});
  if (chance() & 1) fiber.copies.back().arrive();
}

static uint brought[1024][6];
static const uchar* rows[1024];

template <class A, class B>
static void mma_m16n8k32(int* sums, const uint* a, const uint* b) {
  const int thread = current, warp = thread / LANES * LANES, lane = thread % LANES;
  memcpy(brought[thread], a, 16);
  memcpy(brought[thread] + 4, b, 8);
  wait(WARP);
  int results[4];
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    uint sum = sums[i];
    for (int k = 0; k < 32; k++) {  // a lane holds four neighbours along k, of two rows and two halves of k
      const uint x = brought[warp + row % 8 * 4 + k % 16 / 4][row / 8 + k / 16 * 2];
      const uint y = brought[warp + column * 4 + k % 16 / 4][4 + k / 16];
      sum += (uint)((int)(A)(x >> k % 4 * 8) * (int)(B)(y >> k % 4 * 8));
    }
    results[i] = (int)sum;
  }
  wait(WARP);
  memcpy(sums, results, 16);
}

// Address bits 4 to 6 of the 128-byte swizzle are exclusive-or'd with bits 7 to 9.
static uchar swizzled_byte(unsigned long long rows, int row, int k) {
  const int start = (int)(rows & 0x3FFF) << 4, eight_rows = (int)(rows >> 32 & 0x3FFF) << 4;
  const int at = start + row / 8 * eight_rows + row % 8 * 128 + k;
  return shared[at ^ (at >> 7 & 7) << 4];
}

// Reads its operands at a random moment between its start and the wait for it.
template <class A, class B, int N>
static void wgmma_m64k32(int* sums, unsigned long long a, unsigned long long b) {
  if (a >> 62 != 1 || b >> 62 != 1 || (a & 0x38) || (b & 0x38)) fail(MISALIGNED);
  const int thread = current % (4 * LANES), warp = thread / LANES, lane = thread % LANES;
  auto compute = [=] {
    for (int i = 0; i < N / 2; i++) {
      const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      uint sum = sums[i];
      for (int k = 0; k < 32; k++) sum += (uint)((int)(A)swizzled_byte(a, row, k) * (int)(B)swizzled_byte(b, column, k));
      sums[i] = (int)sum;
    }
  };
  Fiber& fiber = fibers[current];
  if (fiber.products.empty() && (chance() & 1)) compute();
  else fiber.products.push_back({compute, fiber.product_groups});
}

}  // namespace emulated

#define __syncthreads() emulated::wait(emulated::BLOCK)
#define __syncwarp() emulated::wait(emulated::WARP)

static inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) sum += (int)(int8_t)(a >> i) * (int)(int8_t)(b >> i);
  return sum;
}

namespace hago {

static inline void copy16_or_fill(void* to, const void* from, int offset, bool inside, int word) {
  if (inside) emulated::begin_copy(to, (const char*)from + offset);
  else if ((uintptr_t)to % 16) emulated::fail(emulated::MISALIGNED);
  else for (int i = 0; i < 4; i++) memcpy((char*)to + 4 * i, &word, 4);
}
static inline void copy16_or_zero(void* to, const void* from, int offset, bool inside) {
  emulated::begin_copy(to, inside ? (const char*)from + offset : nullptr);
}
static inline void commit_copies() { emulated::fibers[emulated::current].groups++; }
template <int N>
static inline void wait_copies() {
  emulated::Fiber& fiber = emulated::fibers[emulated::current];
  auto here = [&](emulated::Copy& copy) {
    if (copy.group > fiber.groups - 1 - N) return false;
    copy.arrive();
    return true;
  };
  auto& copies = fiber.copies;
  copies.erase(std::remove_if(copies.begin(), copies.end(), here), copies.end());
}
static inline unsigned long long wgmma_rows(const void* first) {
  const unsigned long long start = ((const uchar*)first - emulated::shared) >> 4, eight_rows = 1024 >> 4;
  if (((const uchar*)first - emulated::shared) % 1024) emulated::fail(emulated::MISALIGNED);
  return start | 1ull << 16 | eight_rows << 32 | 1ull << 62;
}
static inline void show_to_wgmma() {}
static inline void begin_wgmma() {}
static inline void commit_wgmma() { emulated::fibers[emulated::current].product_groups++; }
template <int N>
static inline void wait_wgmma() {
  emulated::Fiber& fiber = emulated::fibers[emulated::current];
  auto& products = fiber.products;
  size_t done = 0;
  while (done < products.size() && products[done].group <= fiber.product_groups - 1 - N) products[done++].compute();
  products.erase(products.begin(), products.begin() + done);
}
template <int N>
static inline void wgmma_u8s8(int* sums, unsigned long long a, unsigned long long b) {
  emulated::wgmma_m64k32<uint8_t, int8_t, N>(sums, a, b);
}
template <int N>
static inline void wgmma_s8s8(int* sums, unsigned long long a, unsigned long long b) {
  emulated::wgmma_m64k32<int8_t, int8_t, N>(sums, a, b);
}
static inline void let_next_start() {}
static inline void wait_for_previous() {}
static inline void load_matrices(uint* to, const void* row) {
  const int thread = emulated::current, warp = thread / emulated::LANES * emulated::LANES, lane = thread % emulated::LANES;
  if ((uintptr_t)row % 16) emulated::fail(emulated::MISALIGNED);
  emulated::rows[thread] = (const uchar*)row;
  emulated::wait(emulated::WARP);
  for (int i = 0; i < 4; i++) memcpy(to + i, emulated::rows[warp + i * 8 + lane / 4] + lane % 4 * 4, 4);
  emulated::wait(emulated::WARP);
}
static inline void mma_u8s8(int* sums, const uint* a, const uint* b) { emulated::mma_m16n8k32<uint8_t, int8_t>(sums, a, b); }
static inline void mma_s8s8(int* sums, const uint* a, const uint* b) { emulated::mma_m16n8k32<int8_t, int8_t>(sums, a, b); }
static inline int nearest(float value) {
  if (value != value) return 0;
  return value >= 2147483648.f ? INT32_MAX : value < -2147483648.f ? INT32_MIN : (int)std::nearbyint(value);
}
template <class T>
static inline T exchange(T value, int mask) {
  const int thread = emulated::current;
  memcpy(emulated::brought[thread], &value, sizeof(T));
  emulated::wait(emulated::WARP);
  memcpy(&value, emulated::brought[thread ^ mask], sizeof(T));
  emulated::wait(emulated::WARP);
  return value;
}
template <class A, class B>
static inline auto larger(A a, B b) { return a > b ? a : b; }
template <class A, class B>
static inline auto smaller(A a, B b) { return a < b ? a : b; }
static inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
static inline double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

}  // namespace hago

#define max hago::larger
#define min hago::smaller
