// Switching between stacks. On x86-64 a few instructions; elsewhere ucontext, whose switch is a system call.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __x86_64__

struct Fiber { void* top; };  // of its stack, where its registers are

extern "C" void hago_switch_stacks(void** from, void* to);
asm(R"(
.text
.globl hago_switch_stacks
.type hago_switch_stacks, @function
hago_switch_stacks:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

static inline void switch_fibers(Fiber& from, Fiber& to) { hago_switch_stacks(&from.top, to.top); }

static inline void start_fiber(Fiber& fiber, char* stack, size_t bytes, void (*body)()) {
  void** top = (void**)(stack + bytes) - 1;  // the ABI's alignment at the entry of a function
  *--top = (void*)body;
  fiber.top = top - 6;
}

#else
#include <ucontext.h>

struct Fiber { ucontext_t context; };

static inline void switch_fibers(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

static inline void start_fiber(Fiber& fiber, char* stack, size_t bytes, void (*body)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
}
#endif
