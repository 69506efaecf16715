"""The binding of all kernels to PyTorch (LibTorch stable ABI), one C++ file."""
