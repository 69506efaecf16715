"""Runs plans and measures hardware: the only layer, with kernels, that imports torch."""
