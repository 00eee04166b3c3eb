"""Logging in at an identity provider, and keeping what it gives for as long as it is good."""
