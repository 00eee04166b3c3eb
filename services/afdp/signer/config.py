"""What the signer can be told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator
from pydantic_settings import NoDecode

from afdp.config import Port
from afdp.formats.note import NoteError, validate_origin
from afdp.formats.tenant import check_tenant
from afdp.signer.origins import ANY
from afdp.signer.pkcs11.settings import KeyName, Pkcs11Settings
from afdp.signer.time_settings import TimeSettings
from afdp.signer.vault.settings import VaultSettings


def _read_age(value: object) -> object:
    """`90d` or `12h`, beside what pydantic reads itself."""
    matched = re.fullmatch(r"([1-9]\d{0,4})([dh])", value) if isinstance(value, str) else None
    if matched is None:
        raise ValueError("must be a number of days or hours, such as 90d or 12h")
    return timedelta(days=int(matched[1])) if matched[2] == "d" else timedelta(hours=int(matched[1]))


def _shown_age(value: timedelta) -> str:
    hours = int(value.total_seconds() // 3600)
    return f"{hours}h" if hours % 24 else f"{hours // 24}d"


Age = Annotated[timedelta, BeforeValidator(_read_age), PlainSerializer(_shown_age)]
"""How old something may become: `90d` or `12h`."""

KeyHolder = Literal["files", "vault", "pkcs11"]


class TenantKey(BaseModel):
    """An evidence key for some tenants only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: KeyName
    tenants: tuple[Annotated[str, AfterValidator(check_tenant)], ...] = Field(min_length=1)
    algorithm: Literal["P-256", "P-384"] = "P-256"


class LogKey(BaseModel):
    """A log key for some logs only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: KeyName
    origins: tuple[str, ...] = Field(min_length=1)


class SignerSettings(TimeSettings, VaultSettings, Pkcs11Settings):
    """Keys in files by default, or in Vault's transit engine (`AFDP_KEYS=vault`), or in a token (`pkcs11`)."""

    port: Port = 50052
    metrics_port: Port = 9091

    keys: KeyHolder = Field("files", description="What holds the evidence key and all that is not said otherwise.")
    log_keys: KeyHolder | None = Field(None, description="What holds the log key; by default as `keys`.")
    timestamp_keys: KeyHolder = Field(
        "files", description="What holds the time-stamping key: better not what holds the evidence key."
    )
    trust_keys: KeyHolder = Field("files", description="What holds the key for trust metadata.")
    data_keys: KeyHolder | None = Field(
        None, description="What holds subjects' keys, which data keys are wrapped under; by default as `keys`."
    )
    evidence_algorithm: Literal["P-256", "P-384"] = Field("P-256", description="Algorithm of the evidence key.")
    tenant_keys: tuple[TenantKey, ...] = Field((), description="Evidence keys that tenants have of their own.")
    log_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("notary.localhost",),
        description="Logs whose checkpoints are signed, the notary's own first; several are separated by commas, and "
        "*.DOMAIN is all under a domain, those to come, too.",
    )
    own_log_keys: tuple[LogKey, ...] = Field(
        (), description="Keys that logs have of their own: a list of `name` and `origins`."
    )

    key_rotation: Annotated[Mapping[Literal["evidence", "timestamp"], Age], NoDecode] = Field(
        default_factory=dict,
        description="How old the version that signs may become before a new one is made, by purpose, such as "
        "evidence=90d,timestamp=365d; none: no key rotates by itself.",
    )

    passphrase_file: Path | None = Field(
        None, description="Passphrase of the key files; by default DATA_DIR/passphrase, made at the first start."
    )

    @field_validator("key_rotation", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        return {purpose.strip(): age.strip() for purpose, _, age in pairs}

    @field_validator("log_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("log_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            try:
                validate_origin(origin.removeprefix(ANY))
            except NoteError as error:
                raise ValueError(f"{origin!r}: {error}") from None
        if value[0].startswith(ANY):
            raise ValueError("must begin with the name of a log, whose host the notary is")
        return value

    @field_validator("own_log_keys")
    @classmethod
    def _are_apart(cls, value: tuple[LogKey, ...]) -> tuple[LogKey, ...]:
        origins = [origin for key in value for origin in key.origins]
        if twice := sorted({origin for origin in origins if origins.count(origin) > 1}):
            raise ValueError(f"names two keys for the log {twice[0]}")
        return value
