"""Descriptors and layers computed by native kernels: arguments are checked, then the kernel is called."""
