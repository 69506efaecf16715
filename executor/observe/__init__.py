"""What is seen of a step from inside: times of its parts, and in some steps of every operator."""
