"""The public service: validates evidence and drives signer, metadata and transparency to a receipt."""
