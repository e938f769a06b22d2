// A block of CUDA threads on one thread of a processor, see emulated_block.h.
//
// Each CUDA thread is a fiber. Fibers run in random order from one barrier to the next, and one warp runs ahead of all
// others until it must wait for the block. What a warp does together (mma, ldmatrix, shuffles) is computed from its
// definition once all lanes have brought their operands. Copies and products that are asynchronous on a GPU happen at a
// random moment between their start and the wait for them. Shared memory begins with random bytes; arrays, shared ones
// too, end at a page that cannot be touched. A run returns one of `Fault`.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "emulated_block.h"
#include "fibers.h"

Index blockIdx, threadIdx, blockDim, gridDim;

namespace emulated {

enum Waits { NOTHING, WARP, BLOCK };

struct Copy {
  void* to;
  const void* from;
  int bytes, group;
  bool arrived;

  void arrive() {
    if (arrived) return;
    if (from) memcpy(to, from, bytes); else memset(to, 0, bytes);
    arrived = true;
  }
};

struct Product {  // that a warpgroup began; this lane's part of it
  Multiply multiply;
  int* sums;
  unsigned long long a, b;
  int group;
};

struct Thread {
  Fiber fiber;
  char* stack;
  Waits waits;
  bool done;
  Together together;
  Brought brought;
  Index index;
  std::vector<Copy> copies;
  std::vector<Product> products;
  int copy_groups, product_groups;  // closed
};

struct Chance {  // xorshift64*
  unsigned long long state;

  uint operator()() {
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (state * 0x2545F4914F6CDD1Dull) >> 32;
  }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (uint i = items.size(); i > 1; i--) std::swap(items[i - 1], items[(unsigned long long)(*this)() * i >> 32]);
  }
};

const int LANES = 32, SLOTS = 16;
const size_t STACK = 1 << 17, PAGE = 4096, SHARED = 1 << 18;

struct Shared { uchar* end; long long poisoned; };

static std::vector<Thread> threads;
static std::vector<char*> stacks;  // that no fiber uses
static int current;
static Fiber scheduler;
static void (*kernel)(void**);
static void** arguments;
static Chance chance;
static sigjmp_buf escape;
static Shared shared[SLOTS];
static long long block_number;

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static uchar* pages_of(size_t bytes) {  // with a page before and after them that cannot be touched
  uchar* pages = (uchar*)mmap(nullptr, bytes + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(pages, PAGE, PROT_NONE);
  mprotect(pages + PAGE + bytes, PAGE, PROT_NONE);
  return pages + PAGE;
}

void fail(Fault fault) { siglongjmp(escape, fault); }
static void touched_outside(int, siginfo_t*, void*) { fail(OUTSIDE_OF_MEMORY); }

int lane() { return current % LANES; }

static void wait(Waits waits, Together what = nullptr, Brought brought = {}) {
  Thread& thread = threads[current];
  thread.waits = waits;
  thread.together = what;
  thread.brought = brought;
  switch_fibers(thread.fiber, scheduler);
}
void wait_for_block() { wait(BLOCK); }
void wait_for_warp() { wait(WARP); }
void together(Together what, Brought brought) { wait(WARP, what, brought); }

static void run_thread() {
  kernel(arguments);
  threads[current].done = true;
  switch_fibers(threads[current].fiber, scheduler);
}

static void resume(int i) {
  Thread& thread = threads[i];
  if (!thread.stack) {
    if (stacks.empty()) stacks.push_back((char*)pages_of(STACK));
    thread.stack = stacks.back();
    stacks.pop_back();
    start_fiber(thread.fiber, thread.stack, STACK, run_thread);
  }
  current = i;
  threadIdx = thread.index;
  switch_fibers(scheduler, thread.fiber);
  if (thread.done) stacks.push_back(thread.stack);
}

// What all lanes of a warp wait for.
static void release_warp(int first, int end) {
  const Together what = threads[first].together;
  Brought lanes[LANES];
  for (int i = first; i < end; i++) {
    if (threads[i].together != what) fail(DIVERGENT);
    lanes[i - first] = threads[i].brought;
    threads[i].waits = NOTHING;
  }
  if (what && end - first < LANES) fail(DIVERGENT);
  if (what) what(lanes);
}

// Runs one warp until all its lanes are done or wait for the block; whether any lane ran.
static bool run_warp(int first, int end) {
  static std::vector<int> lanes;
  lanes.clear();
  for (int i = first; i < end; i++) lanes.push_back(i);
  for (bool any = false;;) {
    bool ran = false;
    int at_warp = 0;
    chance.shuffle(lanes);
    for (int i : lanes) {
      if (!threads[i].done && threads[i].waits == NOTHING) resume(i), ran = any = true;
      at_warp += !threads[i].done && threads[i].waits == WARP;
    }
    if (at_warp == end - first) release_warp(first, end);
    else if (!ran) return any;
  }
}

static void run_block(int count) {
  for (int i = 0; i < count; i++) {
    Thread& thread = threads[i];
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    thread.stack = nullptr;
    thread.waits = NOTHING;
    thread.done = false;
    thread.copies.clear();
    thread.products.clear();
    thread.copy_groups = thread.product_groups = 0;
  }
  static std::vector<int> warps;
  warps.clear();
  for (int i = 0; i < count; i += LANES) warps.push_back(i);
  block_number++;
  for (;;) {
    bool ran = false;
    chance.shuffle(warps);
    for (int first : warps) ran |= run_warp(first, min(count, first + LANES));
    if (ran) continue;
    if (std::all_of(threads.begin(), threads.end(), [](const Thread& thread) { return thread.done; })) break;
    for (auto& thread : threads) {
      if (thread.done || thread.waits != BLOCK) fail(DIVERGENT);
      thread.waits = NOTHING;
    }
  }
  for (auto& thread : threads)
    if (!thread.copies.empty() || !thread.products.empty()) fail(NEVER_WAITED_FOR);
}

uchar* shared_bytes(int slot, int bytes) {
  if (slot >= SLOTS || bytes > (int)SHARED) fail(OUTSIDE_OF_MEMORY);
  Shared& memory = shared[slot];
  if (!memory.end) memory.end = pages_of(SHARED) + SHARED;
  uchar* data = memory.end - (bytes + 15) / 16 * 16;
  if (slot == 0) data = memory.end - (bytes + 1023) / 1024 * 1024;  // dynamic shared memory
  if (memory.poisoned != block_number)
    for (uchar* at = data; at < memory.end; at += 4) { const uint word = chance(); memcpy(at, &word, 4); }
  memory.poisoned = block_number;
  return data;
}

void begin_copy(void* to, const void* from, int bytes) {
  if (((uintptr_t)to | (uintptr_t)from) % bytes) fail(MISALIGNED);
  if (from) { volatile uchar touch = *(const uchar*)from; (void)touch; }
  Thread& thread = threads[current];
  thread.copies.push_back({to, from, bytes, thread.copy_groups, false});
  if (chance() & 1) thread.copies.back().arrive();
}
void commit_copies() { threads[current].copy_groups++; }
void wait_copies(int but) {
  Thread& thread = threads[current];
  size_t done = 0;
  while (done < thread.copies.size() && thread.copies[done].group < thread.copy_groups - but) thread.copies[done++].arrive();
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + done);
}

void begin_product(Multiply multiply, int* sums, unsigned long long a, unsigned long long b) {
  if (a >> 62 != 1 || b >> 62 != 1 || (a & 0x38) || (b & 0x38)) fail(MISALIGNED);
  Thread& thread = threads[current];
  if (thread.products.empty() && (chance() & 1)) multiply(sums, a, b, current % (4 * LANES));
  else thread.products.push_back({multiply, sums, a, b, thread.product_groups});
}
void commit_products() { threads[current].product_groups++; }
void wait_products(int but) {
  Thread& thread = threads[current];
  size_t done = 0;
  for (; done < thread.products.size() && thread.products[done].group < thread.product_groups - but; done++) {
    const Product& begun = thread.products[done];
    begun.multiply(begun.sums, begun.a, begun.b, current % (4 * LANES));
  }
  thread.products.erase(thread.products.begin(), thread.products.begin() + done);
}

template <class A, class B>
static int dot(const A* a, const B* b, int count) {
  int sum = 0;
  for (int k = 0; k < count; k++) sum += (int)a[k] * (int)b[k];
  return sum;
}

void load_matrices(Brought* lanes) {
  for (int i = 0; i < LANES; i++)
    if ((uintptr_t)lanes[i].a % 16) fail(MISALIGNED);
  for (int i = 0; i < 4 * LANES; i++)
    memcpy((uint*)lanes[i % LANES].to + i / LANES, (const uchar*)lanes[i / LANES * 8 + i % LANES / 4].a + i % 4 * 4, 4);
}

template <class A, class B>
void mma_m16n8k32(Brought* lanes) {
  uint a[16][8], b[8][8];  // words of four neighbours along k
  for (int i = 0; i < LANES; i++)
    for (int half = 0; half < 2; half++) {
      for (int down = 0; down < 2; down++) a[i / 4 + down * 8][i % 4 + half * 4] = ((const uint*)lanes[i].a)[down + half * 2];
      b[i / 4][i % 4 + half * 4] = ((const uint*)lanes[i].b)[half];
    }
  for (int i = 0; i < 4 * LANES; i++) {
    const int lane = i / 4, row = lane / 4 + i % 4 / 2 * 8, column = lane % 4 * 2 + i % 2;
    ((uint*)lanes[lane].to)[i % 4] += (uint)dot((const A*)a[row], (const B*)b[column], 32);
  }
}

// Unsigned by signed numbers of 4 bits, the first of two in the lower half of a byte: the products of 32 bytes twice.
void mma_m16n8k64(Brought* lanes) {
  uint a[2][LANES][4], b[2][LANES][2];
  Brought halves[LANES];
  for (int half = 0; half < 2; half++) {
    for (int i = 0; i < LANES; i++) {
      for (int k = 0; k < 4; k++) a[half][i][k] = ((const uint*)lanes[i].a)[k] >> 4 * half & 0x0F0F0F0F;
      for (int k = 0; k < 2; k++) {
        const uint four = ((const uint*)lanes[i].b)[k] >> 4 * half & 0x0F0F0F0F;
        b[half][i][k] = four | (four & 0x08080808) * 0x1E;  // the sign into the upper half of each byte
      }
      halves[i] = lanes[i];
      halves[i].a = a[half][i];
      halves[i].b = b[half][i];
    }
    mma_m16n8k32<uint8_t, int8_t>(halves);
  }
}
template void mma_m16n8k32<uint8_t, int8_t>(Brought*);
template void mma_m16n8k32<int8_t, int8_t>(Brought*);
template void mma_m16n8k32<uint8_t, uint8_t>(Brought*);

// The same of 16-bit floats: ``Real`` turns one into float32. Sums are rounded once for each product, in order.
template <float (*Real)(ushort)>
void mma_m16n8k16(Brought* lanes) {
  ushort a[16][16], b[8][16];
  for (int i = 0; i < LANES; i++)
    for (int half = 0; half < 2; half++) {
      const int k = i % 4 * 2 + half * 8;
      for (int down = 0; down < 2; down++) memcpy(&a[i / 4 + down * 8][k], (const uint*)lanes[i].a + down + half * 2, 4);
      memcpy(&b[i / 4][k], (const uint*)lanes[i].b + half, 4);
    }
  for (int i = 0; i < 4 * LANES; i++) {
    const int lane = i / 4, row = lane / 4 + i % 4 / 2 * 8, column = lane % 4 * 2 + i % 2;
    float& sum = ((float*)lanes[lane].to)[i % 4];
    for (int k = 0; k < 16; k++) sum += Real(a[row][k]) * Real(b[column][k]);
  }
}
float of_float16(ushort bits) {
  _Float16 value;
  memcpy(&value, &bits, 2);
  return value;
}
float of_bfloat16(ushort bits) {
  const uint word = (uint)bits << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}
template void mma_m16n8k16<of_float16>(Brought*);
template void mma_m16n8k16<of_bfloat16>(Brought*);

static const uchar* dynamic_begin() { return shared[0].end - SHARED; }

unsigned long long rows_of_128(const void* first) {
  const unsigned long long place = (const uchar*)first - dynamic_begin(), eight_rows = 1024 >> 4;
  if (place % 1024) fail(MISALIGNED);
  return place >> 4 | 1ull << 16 | eight_rows << 32 | 1ull << 62;
}

// Address bits 4 to 6 of the 128-byte swizzle are exclusive-or'd with bits 7 to 9.
static const uchar* swizzled_chunk(unsigned long long rows, int row, int chunk) {
  const int start = (int)(rows & 0x3FFF) << 4, eight_rows = (int)(rows >> 32 & 0x3FFF) << 4;
  const int at = start + row / 8 * eight_rows + row % 8 * 128 + chunk * 16;
  return dynamic_begin() + (at ^ (at >> 7 & 7) << 4);
}

template <class A, class B, int N>
void wgmma_m64k32(int* sums, unsigned long long a, unsigned long long b, int thread) {
  const int warp = thread / LANES, lane = thread % LANES;
  for (int i = 0; i < N / 2; i++) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    uint sum = sums[i];
    for (int k = 0; k < 2; k++) sum += (uint)dot((const A*)swizzled_chunk(a, row, k), (const B*)swizzled_chunk(b, column, k), 16);
    sums[i] = (int)sum;
  }
}
#define WGMMA(A, N) template void wgmma_m64k32<A, int8_t, N>(int*, unsigned long long, unsigned long long, int);
WGMMA(uint8_t, 64) WGMMA(uint8_t, 128) WGMMA(uint8_t, 256) WGMMA(int8_t, 64) WGMMA(int8_t, 128) WGMMA(int8_t, 256)

// Sums are rounded once for each product, in order.
template <float (*Real)(ushort), int N>
void wgmma_m64k16(int* sums, unsigned long long a, unsigned long long b, int thread) {
  const int warp = thread / LANES, lane = thread % LANES;
  for (int i = 0; i < N / 2; i++) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    float& sum = ((float*)sums)[i];
    for (int k = 0; k < 16; k++) {
      const ushort* x = (const ushort*)swizzled_chunk(a, row, k / 8);
      const ushort* y = (const ushort*)swizzled_chunk(b, column, k / 8);
      sum += Real(x[k % 8]) * Real(y[k % 8]);
    }
  }
}
#define WGMMA_REAL(REAL, N) template void wgmma_m64k16<REAL, N>(int*, unsigned long long, unsigned long long, int);
WGMMA_REAL(of_float16, 64) WGMMA_REAL(of_float16, 128) WGMMA_REAL(of_float16, 256)
WGMMA_REAL(of_bfloat16, 64) WGMMA_REAL(of_bfloat16, 128) WGMMA_REAL(of_bfloat16, 256)

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

static void run_blocks(Index grid, Index block) {
  gridDim = grid;
  blockDim = block;
  const int count = block.x * block.y * block.z;
  for (auto& thread : threads)
    if (thread.stack && !thread.done) stacks.push_back(thread.stack);  // after a fault
  threads.assign(count, Thread());
  static std::vector<int> blocks;
  blocks.resize(grid.x * grid.y * grid.z);
  for (size_t i = 0; i < blocks.size(); i++) blocks[i] = i;
  chance.shuffle(blocks);
  for (int i : blocks) {
    blockIdx = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    run_block(count);
  }
}

// Runs a grid, its blocks in random order.
extern "C" int run(void (*body)(void**), void** arrays, const long* bytes, int count, const int* grid, const int* block, uint seed) {
  std::vector<Guarded> guarded;
  std::vector<void*> data;
  for (int i = 0; i < count; i++) {
    guarded.emplace_back(arrays[i], bytes[i]);
    data.push_back(guarded[i].data);
  }
  chance.state = 0x9E3779B97F4A7C15ull * (seed + 1);
  kernel = body;
  arguments = data.data();
  struct sigaction here = {}, segv, bus;
  here.sa_sigaction = touched_outside;
  here.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &here, &segv);
  sigaction(SIGBUS, &here, &bus);
  const int fault = sigsetjmp(escape, 1);
  if (!fault) run_blocks({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]});
  sigaction(SIGSEGV, &segv, nullptr);
  sigaction(SIGBUS, &bus, nullptr);
  for (int i = 0; i < count; i++) guarded[i].release(arrays[i], bytes[i]);
  return fault;
}

}  // namespace emulated
