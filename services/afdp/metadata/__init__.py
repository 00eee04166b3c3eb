"""Metadata: keeps in PostgreSQL what was notarised, and finds it again (gRPC, port 50054)."""
