"""What the signer can be told of Vault: where it is, and how the signer and the key admin log in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from afdp.config import Seconds, ServiceSettings

Method = Literal["token", "approle", "kubernetes", "cert"]

_JWT_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class VaultSettings(ServiceSettings):
    """The settings that begin with `AFDP_VAULT_`."""

    vault_addr: str = Field(
        "http://127.0.0.1:8200",
        validation_alias=AliasChoices("vault_addr", "AFDP_VAULT_ADDR", "VAULT_ADDR"),
        description="Vault's address.",
    )
    vault_namespace: str | None = Field(
        None,
        validation_alias=AliasChoices("vault_namespace", "AFDP_VAULT_NAMESPACE", "VAULT_NAMESPACE"),
        description="Vault's namespace.",
    )
    vault_ca_file: Path | None = Field(
        None,
        validation_alias=AliasChoices("vault_ca_file", "AFDP_VAULT_CA_FILE", "VAULT_CACERT"),
        description="The authority of Vault's certificate, PEM; else the system's.",
    )
    vault_mount: str = Field("afdp-transit", description="Mount of the transit engine.")
    vault_evidence_key: str = Field("afdp-notary-key", description="Name of the evidence key in Vault.")
    vault_log_key: str = Field("afdp-log-key", description="Name of the log key in Vault.")
    vault_timestamp_key: str = Field("afdp-timestamp-key", description="Name of the time-stamping key in Vault.")
    vault_trust_key: str = Field("afdp-trust-key", description="Name of the key for trust metadata in Vault.")
    vault_connect_timeout_seconds: Seconds = Field(1.0, description="Longest wait for a connection to Vault.")
    vault_timeout_seconds: Seconds = Field(3.0, description="Longest wait for one answer of Vault.")

    vault_auth: Method = Field("token", description="How the signer logs in.")
    vault_auth_mount: str | None = Field(None, description="Mount of that method; by default its own name.")
    vault_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("vault_token", "AFDP_VAULT_TOKEN", "VAULT_TOKEN"),
        description="token: the token itself.",
    )
    vault_token_file: Path | None = Field(None, description="token: a file with it, read again when it is refused.")
    vault_role: str | None = Field(None, description="kubernetes, cert: the role.")
    vault_role_id: str | None = Field(None, description="approle: the role's ID.")
    vault_role_id_file: Path | None = Field(None, description="approle: a file with the role's ID.")
    vault_secret_id_file: Path | None = Field(None, description="approle: a file with the secret ID.")
    vault_jwt_file: Path = Field(_JWT_FILE, description="kubernetes: a file with the service account's token.")
    vault_cert_file: Path | None = Field(None, description="cert: the client certificate, PEM.")
    vault_cert_key_file: Path | None = Field(None, description="cert: its private key, PEM.")

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
    vault_admin_jwt_file: Path = Field(_JWT_FILE, description="As AFDP_VAULT_JWT_FILE, for the key admin.")
    vault_admin_cert_file: Path | None = Field(None, description="As AFDP_VAULT_CERT_FILE, for the key admin.")
    vault_admin_cert_key_file: Path | None = Field(None, description="As AFDP_VAULT_CERT_KEY_FILE, for the key admin.")
