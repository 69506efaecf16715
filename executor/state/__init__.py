"""Weights, gradients and optimizer state of a rank, shared with the ranks that hold the same parameters (ZeRO)."""
