"""In which order, on which streams and in which fused kernels the operators of a layer run; how long that takes."""
