"""Checkpoints of a run: asynchronous, atomic, readable by another layout of ranks.

Files are those of torch.distributed.checkpoint, with a manifest beside them that says what they belong to.
"""
