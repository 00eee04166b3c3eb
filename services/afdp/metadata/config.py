"""What the metadata service can be told."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from afdp.config import Port, Seconds, ServiceSettings


def _postgres_url(url: SecretStr) -> SecretStr:
    if urlsplit(url.get_secret_value()).scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a URL that begins with postgresql://")
    return url


class MetadataSettings(ServiceSettings):
    """The settings of `python -m afdp.metadata`."""

    port: Port = 50054
    metrics_port: Port = 9093
    database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] = Field(
        SecretStr("postgresql://afdp@127.0.0.1:5432/afdp"), description="PostgreSQL 15 or later; holds the password."
    )
    database_pool_min: int = Field(10, ge=1, le=1000, description="Connections that are opened at the start.")
    database_pool_max: int = Field(50, ge=1, le=1000, description="Most connections at a time.")
    database_connect_timeout_seconds: Seconds = Field(
        30.0,
        description="How long to wait for a connection, a new one or a free one; a call's deadline may be shorter.",
    )
    database_statement_timeout_seconds: Seconds = Field(10.0, description="How long one SQL statement may take.")
    idempotency_retention_days: int = Field(
        30, ge=1, le=3650, description="How long an idempotency key is remembered; an older one counts as new."
    )
    pending_refresh_seconds: Seconds = Field(15.0, description="How often the gauges of pending records are counted.")

    @model_validator(mode="after")
    def _pool_sizes_agree(self) -> Self:
        if self.database_pool_min > self.database_pool_max:
            raise ValueError("AFDP_DATABASE_POOL_MIN is more than AFDP_DATABASE_POOL_MAX")
        return self
