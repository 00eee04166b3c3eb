"""Vault or OpenBao, as every service may reach it: how it is called, and how one logs in.

The signer's keys are there (`afdp.signer.vault`); of other services, secrets that are settings (`afdp.secrets`).
"""
