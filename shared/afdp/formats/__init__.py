"""The formats every part shares: canonical JSON, DSSE, Merkle trees, signed notes, tiles, log entries and statements.

Pure functions over values: nothing here reads a file, a socket or a clock, and nothing imports gRPC or Sigstore, so
that the offline verifier starts quickly.
"""
