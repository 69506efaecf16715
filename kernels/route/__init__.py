"""Router: from logits to experts, gate weights, counts and the sums that auxiliary losses need."""
