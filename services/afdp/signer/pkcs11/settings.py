"""What the signer can be told of a token: which one it is, and how the signer is let in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from afdp.config import Seconds, ServiceSettings

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Pkcs11Settings(ServiceSettings):
    """The settings that begin with `AFDP_PKCS11_`."""

    pkcs11_module: Path | None = Field(None, description="The shared library of the token's maker (PKCS #11).")
    pkcs11_token_label: str | None = Field(None, description="The token's label.")
    pkcs11_token_serial: str | None = Field(None, description="Its serial number, where labels are not unique.")
    pkcs11_pin_file: Path | None = Field(None, description="A file with the user's PIN, read at each login.")
    pkcs11_pin: SecretStr | None = Field(None, description="That PIN itself, where it cannot be in a file.")
    pkcs11_sessions: int = Field(4, ge=1, le=256, description="Sessions on the token, each with a thread.")
    pkcs11_timeout_seconds: Seconds = Field(5.0, description="Longest wait for one answer of the token.")
    pkcs11_evidence_key: KeyName = Field("afdp-hsm-key", description="Label of the evidence key in the token.")
    pkcs11_log_key: KeyName = Field("afdp-hsm-log-key", description="Label of the log key in the token.")
    pkcs11_timestamp_key: KeyName = Field(
        "afdp-hsm-timestamp-key", description="Label of the time-stamping key in the token."
    )
    pkcs11_trust_key: KeyName = Field(
        "afdp-hsm-trust-key", description="Label of the key for trust metadata in the token."
    )
    pkcs11_data_key: KeyName = Field(
        "afdp-hsm-data-key", description="Label of the secret in the token that seals subjects' keys."
    )
