"""Logs that others run, as places for our entries: Rekor v2 and v1."""
