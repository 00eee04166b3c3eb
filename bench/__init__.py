"""Measures the running service: `make bench`."""
