"""What a service that keeps state in PostgreSQL can be told about it."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from afdp.config import Seconds, ServiceSettings
from afdp.vault.settings import VaultAccessSettings


def _postgres_url(url: SecretStr) -> SecretStr:
    if urlsplit(url.get_secret_value()).scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a URL that begins with postgresql://")
    return url


class DatabaseSettings(VaultAccessSettings, ServiceSettings):
    """The settings of a service with a database."""

    database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] = Field(
        SecretStr("postgresql://afdp@127.0.0.1:5432/afdp"), description="PostgreSQL 15 or later; holds the password."
    )
    database_pool_min: int = Field(10, ge=1, le=1000, description="Connections that are opened at the start.")
    database_pool_max: int = Field(50, ge=1, le=1000, description="Most connections at a time.")
    database_connect_timeout_seconds: Seconds = Field(
        30.0, description="How long to wait for a connection, new or free; a call's deadline may be shorter."
    )
    database_statement_timeout_seconds: Seconds = Field(10.0, description="How long one SQL statement may take.")

    @model_validator(mode="after")
    def _pool_sizes_agree(self) -> Self:
        if self.database_pool_min > self.database_pool_max:
            raise ValueError("AFDP_DATABASE_POOL_MIN is more than AFDP_DATABASE_POOL_MAX")
        return self
