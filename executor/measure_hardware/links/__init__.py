"""Measures between GPUs: collectives, messages by copy engines, and computation beside both.

One process a GPU, all in step: every rank runs the same entries in the same order, and counts of runs are agreed on.
"""

from __future__ import annotations
