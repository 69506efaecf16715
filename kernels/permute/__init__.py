"""Permute and unpermute: rows from tokens to experts and back, through the maps of `index`."""
