"""Kernels for NVIDIA GPUs: not a target yet, since a whole network does not compile for it.

What is here compiles kernels without a GPU, from pip packages alone (the extra ``cuda``), and is proved on a block of
threads that the tests emulate.
"""
