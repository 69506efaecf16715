"""SwiGLU of expert rows that leaves FP8 by rows and by columns, for the two products that read it."""
