"""A model on one rank: its parts (embedding, layers, head) as the plan has them, and the stages that run them."""
