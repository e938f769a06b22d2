"""x86 and Arm processors: templates written for LLVM, one kernel family per file (see hago.kernels)."""
