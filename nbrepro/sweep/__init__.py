"""Sweeps: what is missing, and running it."""
