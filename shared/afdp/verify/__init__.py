"""Verification without a network: of receipts (`receipts`), and of whole logs (`fsck`).

Used by the command line and by the notary alike. Nothing here reads a clock unasked, and nothing imports gRPC, so that
a lone `afdp verify` starts quickly.
"""
