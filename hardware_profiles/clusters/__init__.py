"""Cluster presets as YAML."""
