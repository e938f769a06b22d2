"""What the kernels of all targets share."""
