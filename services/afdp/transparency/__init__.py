"""The transparency log: appends entries to an RFC 6962 tree in PostgreSQL, proves what is in it, serves it as tiles."""
