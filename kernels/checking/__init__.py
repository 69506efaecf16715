"""What tests and benchmarks of all kernels share: the error measure, the cases, the shapes, the clock."""
