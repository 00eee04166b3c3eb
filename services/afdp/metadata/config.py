"""What the metadata service can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from afdp.config import Port, Seconds
from afdp.postgres import DatabaseSettings, check_postgres_url
from afdp.redis import RedisSettings
from afdp.rpc.addresses import Address


class MetadataSettings(DatabaseSettings, RedisSettings):
    """The settings of `python -m afdp.metadata`."""

    port: Port = 50054
    metrics_port: Port = 9093
    database_owner_url: Annotated[SecretStr, AfterValidator(check_postgres_url)] | None = Field(
        None,
        description="Who owns the schema, for the command `migrate` alone, which also makes the login role of "
        "AFDP_DATABASE_URL and lets it in; none: AFDP_DATABASE_URL owns it.",
    )
    idempotency_retention_days: int = Field(
        30, ge=1, le=3650, description="How long an idempotency key is remembered; an older one counts as new."
    )
    searchable_metadata: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        max_length=64,
        description="Places in the metadata of evidence that search finds it by, dotted, by commas, such as "
        "model.name,run_id; records of before are not found by a place that is added.",
    )
    change_retention_hours: int = Field(
        168,
        ge=1,
        le=8760,
        description="How long it is known which receipts were made or upgraded when: who watches them and was away for "
        "longer has to begin anew.",
    )
    encryption: Literal["on", "off"] = Field(
        "off",
        description="on: records are sealed under the signer's data keys. off: they lie in plain. It has to be said, "
        "and stays as it was with the first record. docs/encryption.md.",
    )
    signer_address: Address = Field(
        "127.0.0.1:50052", description="The signer's host:port; of several replicas the first that is there."
    )
    signer_timeout_seconds: Seconds = Field(5.0, description="Longest wait for one answer of the signer.")
    subject_path: str = Field(
        "",
        max_length=512,
        description="Where evidence names its subject, whose records are sealed and erased together, such as "
        "metadata.patient_id; none: its actor.",
    )
    data_keys_cached: int = Field(10_000, ge=1, le=1_000_000, description="Data keys that are held in memory.")
    data_keys_cached_seconds: Seconds = Field(3600.0, description="How long one is held.")
    data_key_hours: int = Field(24, ge=1, le=8760, description="How long one seals records; then a new one is made.")
    pending_refresh_seconds: Seconds = Field(15.0, description="How often the gauges of pending records are counted.")
    audit_sinks: Path | None = Field(
        None, description="A YAML file: where events of the audit trail are forwarded to; none: nowhere. docs/siem.md."
    )

    cache_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="With AFDP_REDIS_URL: what copies of records are sealed under there, the same for all replicas.",
    )
    cache_seconds: int = Field(3600, ge=1, le=43_200, description="How long a copy of a record holds.")
    cache_max_bytes: int = Field(
        64 * 1024, ge=1024, le=1024 * 1024, description="The largest copy of a record that is kept."
    )

    @model_validator(mode="after")
    def _seal_copies(self) -> Self:
        if self.redis_url is not None and self.cache_secret is None:
            raise ValueError("AFDP_REDIS_URL needs AFDP_CACHE_SECRET, which copies of records are sealed under")
        return self

    @property
    def unsaid(self) -> tuple[str, ...]:
        """As `ServiceSettings.unsaid`."""
        if "encryption" in self.model_fields_set:
            return super().unsaid
        return (
            *super().unsaid,
            "AFDP_ENCRYPTION is not said: set it to on, with AFDP_SIGNER_ADDRESS, to seal records, or to off to leave "
            "them in plain for whoever reads the database",
        )

    @field_validator("searchable_metadata", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("searchable_metadata")
    @classmethod
    def _are_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_PATH.fullmatch(path) and len(path) <= 255 for path in value):
            raise ValueError("each must be names with dots between them, without `=`, of at most 255 characters")
        return value


_PATH = re.compile(r"[^.=,\s]+(\.[^.=,\s]+)*")
