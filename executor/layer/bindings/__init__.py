"""Bindings: for every kind of operator of a layer program, the PyTorch code that runs it."""
