"""Audit events as others read them: OCSF JSON, CEF, and the syslog messages that carry either. Pure functions."""
