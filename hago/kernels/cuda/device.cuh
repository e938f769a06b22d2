// What kernels ask of the hardware, in inline PTX (sm_80 and newer). It stands before the source that TVM generates.
// tests/emulated_block.h defines the same names by their meaning, for a block of threads that runs on a processor.
#pragma once
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

#define HAGO_DEVICE static __device__ __forceinline__

namespace hago {

HAGO_DEVICE uint shared_address(const void* at) { return (uint)__cvta_generic_to_shared(at); }

// Begins to copy 16 bytes, from + offset, to shared memory where ``inside``; else stores four times ``word``, at once.
HAGO_DEVICE void copy16_or_fill(void* to, const void* from, int offset, bool inside, int word) {
  if (inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"((const char*)from + offset)
                 : "memory");
  } else {
    *(int4*)to = make_int4(word, word, word, word);
  }
}

// Begins to copy 16 bytes, from + offset, or 16 zeros where not ``inside``.
HAGO_DEVICE void copy16_or_zero(void* to, const void* from, int offset, bool inside) {
  const void* source = (const char*)from + (inside ? offset : 0);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(source),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Closes the group of copies begun since the last one.
HAGO_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last N groups have arrived.
template <int N>
HAGO_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four matrices of 8 rows of 16 bytes; lane l names row l % 8 of matrix l / 8.
HAGO_DEVICE void load_matrices(uint* to, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// sums[16 x 8] += a[16 x 32] b[8 x 32]^T, spread over the lanes of a warp.
#define HAGO_MMA(NAME, A, B)                                                                                     \
  HAGO_DEVICE void NAME(int* sums, const uint* a, const uint* b) {                                               \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." A "." B                                                \
                 ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                          \
                 : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                            \
  }
HAGO_MMA(mma_u8s8, "u8", "s8")
HAGO_MMA(mma_s8s8, "s8", "s8")
#undef HAGO_MMA

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

// float32 to the nearest integer, half to even.
HAGO_DEVICE int nearest(float value) { return __float2int_rn(value); }

// One rounding.
HAGO_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }

}  // namespace hago
