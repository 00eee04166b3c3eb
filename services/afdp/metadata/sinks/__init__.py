"""Sinks of the audit trail: where its events are forwarded to, in order, each at least once."""
