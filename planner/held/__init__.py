"""What follows from a change, and what is held: each part of a configuration settled when all changes are known."""
