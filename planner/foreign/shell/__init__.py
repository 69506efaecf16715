"""Reads launch scripts without running them: variables, arrays, conditions on known values, the training command."""
