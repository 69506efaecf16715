"""Layer programs: the operators of one layer under one strategy, forward and backward."""
