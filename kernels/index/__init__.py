"""Index: a stable counting sort of (token, choice) slots by expert, as maps both ways."""
