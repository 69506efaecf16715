"""What touches GPUs: measures them, and runs plans on them. It obeys a plan and never searches."""

from __future__ import annotations
