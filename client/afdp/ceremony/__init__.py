"""Signing the trust root offline: keys in encrypted files, a folder of what was signed, and what shall follow it."""
