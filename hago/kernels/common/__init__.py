"""What kernels of any target share."""
