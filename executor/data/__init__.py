"""Training data: where the tokens of a step come from.

Every source is a pure function of (seed, step, position in the global batch). So it is sharded by who asks for which
positions, and a run resumes to the very token, whatever the number of ranks before and after.
"""
