"""SwiGLU of expert rows, times their gate weights."""
