"""What the signer can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from afdp.config import Port, Seconds, ServiceSettings
from afdp.formats.note import NoteError, validate_origin


class SignerSettings(ServiceSettings):
    """Keys in files by default; with `AFDP_KEYS=vault` in Vault's transit engine."""

    port: Port = 50052
    metrics_port: Port = 9091

    keys: Literal["files", "vault"] = Field("files", description="What holds the private keys.")
    log_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("notary.localhost",), description="Logs whose checkpoints are signed; several are separated by commas."
    )

    passphrase_file: Path | None = Field(
        None, description="Passphrase of the key files; by default DATA_DIR/passphrase, made at the first start."
    )

    vault_addr: str = Field(
        "http://127.0.0.1:8200",
        validation_alias=AliasChoices("vault_addr", "AFDP_VAULT_ADDR", "VAULT_ADDR"),
        description="Vault's address.",
    )
    vault_token: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("vault_token", "AFDP_VAULT_TOKEN", "VAULT_TOKEN"),
        description="A token that may sign and read public keys.",
    )
    vault_token_file: Path | None = Field(None, description="A file with that token, read again when it is refused.")
    vault_admin_token_file: Path | None = Field(
        None, description="A file with a token that may rotate keys; without it rotation is refused here."
    )
    vault_namespace: str | None = Field(None, description="Vault's namespace.")
    vault_ca_file: Path | None = Field(None, description="The authority of Vault's certificate; else the system's.")
    vault_mount: str = Field("afdp-transit", description="Mount of the transit engine.")
    vault_evidence_key: str = Field("afdp-notary-key", description="Name of the evidence key.")
    vault_log_key: str = Field("afdp-log-key", description="Name of the log key.")
    vault_timeout_seconds: Seconds = Field(5.0, description="Longest wait for one answer of Vault.")

    @field_validator("log_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("log_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            try:
                validate_origin(origin)
            except NoteError as error:
                raise ValueError(f"{origin!r}: {error}") from None
        return value
