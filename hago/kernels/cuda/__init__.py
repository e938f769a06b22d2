"""NVIDIA GPUs: templates whose CUDA source NVRTC compiles without a GPU (the extra ``cuda``), see hago.kernels."""
