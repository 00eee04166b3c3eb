"""What the signer can be told of Vault: where its keys are, and how the signer and the key admin log in."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from afdp.config import ServiceSettings
from afdp.vault.settings import JWT_FILE, Method, VaultAccessSettings


class VaultSettings(VaultAccessSettings, ServiceSettings):
    """The settings that begin with `AFDP_VAULT_`."""

    vault_mount: str = Field("afdp-transit", description="Mount of the transit engine.")
    vault_evidence_key: str = Field("afdp-notary-key", description="Name of the evidence key in Vault.")
    vault_log_key: str = Field("afdp-log-key", description="Name of the log key in Vault.")
    vault_timestamp_key: str = Field("afdp-timestamp-key", description="Name of the time-stamping key in Vault.")
    vault_trust_key: str = Field("afdp-trust-key", description="Name of the key for trust metadata in Vault.")

    vault_admin_auth: Method | None = Field(
        None, description="How the key admin logs in, who rotates keys; none: by token where there is its file."
    )
    vault_admin_auth_mount: str | None = Field(None, description="As AFDP_VAULT_AUTH_MOUNT, for the key admin.")
    vault_admin_token_file: Path | None = Field(None, description="As AFDP_VAULT_TOKEN_FILE, for the key admin.")
    vault_admin_role: str | None = Field(None, description="As AFDP_VAULT_ROLE, for the key admin.")
    vault_admin_role_id: str | None = Field(None, description="As AFDP_VAULT_ROLE_ID, for the key admin.")
    vault_admin_role_id_file: Path | None = Field(None, description="As AFDP_VAULT_ROLE_ID_FILE, for the key admin.")
    vault_admin_secret_id_file: Path | None = Field(
        None, description="As AFDP_VAULT_SECRET_ID_FILE, for the key admin."
    )
    vault_admin_jwt_file: Path = Field(JWT_FILE, description="As AFDP_VAULTJWT_FILE, for the key admin.")
    vault_admin_cert_file: Path | None = Field(None, description="As AFDP_VAULT_CERT_FILE, for the key admin.")
    vault_admin_cert_key_file: Path | None = Field(None, description="As AFDP_VAULT_CERT_KEY_FILE, for the key admin.")
