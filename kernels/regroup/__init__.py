"""Regroup: rows that ranks sent, each rank's sorted by expert, as maps to groups of experts and back."""
