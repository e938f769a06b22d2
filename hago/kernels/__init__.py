"""Kernels, one folder for each kind of target."""
