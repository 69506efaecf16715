"""The bottom layer: what a model, a cluster and a strategy are, what they cost, and how a step unfolds in time."""
