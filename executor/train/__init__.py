"""Trains a planned model: steps, records, progress, and how the ranks are started."""
