"""The layer that chooses: the space of plans, bounds, the inner solver, the search, and plans as files."""
