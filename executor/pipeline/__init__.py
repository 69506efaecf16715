"""Runs micro-batches through the stages in the order of the schedule that the simulator simulates."""
