"""What a service that keeps state in PostgreSQL can be told about it."""

from __future__ import annotations

import os
from typing import Annotated, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from afdp.config import Seconds, ServiceSettings
from afdp.tls.plain import is_loopback
from afdp.vault.settings import VaultAccessSettings


def check_postgres_url(url: SecretStr) -> SecretStr:
    """The URL itself, if what is sent there stays here, or is encrypted to a server whose certificate is verified.

    Raises:
        ValueError: it is not; the message does not hold it.
    """
    try:
        parts = urlsplit(url.get_secret_value())
        options = parse_qs(parts.query)
    except ValueError:
        raise ValueError("must be a URL that begins with postgresql://") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a URL that begins with postgresql://")
    if "service" in options or "servicefile" in options or os.environ.get("PGSERVICE"):
        raise ValueError("names a service file (PGSERVICE), which may name any server: plain text stays on this one")
    named = parts.netloc.partition("@")[2] if "@" in parts.netloc else parts.netloc
    hosts = [unquote(_address(each)) for each in named.split(",") if each]
    hosts += [_address(each) for given in options.get("host", ()) for each in given.split(",") if each]
    hosts = hosts or [_address(each) for each in os.environ.get("PGHOST", "").split(",") if each]
    if options.get("sslmode") != ["verify-full"] and not all(map(_stays_here, hosts)):
        raise ValueError(
            "names another machine, and plain text stays on this one: add sslmode=verify-full, and sslrootcert, a file "
            "with the authority of the server's certificate"
        )
    return url


def _address(given: str) -> str:
    """The address of `host:port`, read as asyncpg reads it; of a bare IPv6 address all of it."""
    if given.startswith("["):
        return given[1:].partition("]")[0]
    if given.startswith("/") or given.count(":") > 1:
        return given
    return given.partition(":")[0]


def _stays_here(host: str) -> bool:
    return host.startswith("/") or (is_loopback(host) and not host.startswith("unix:"))


class DatabaseSettings(VaultAccessSettings, ServiceSettings):
    """The settings of a service with a database."""

    database_url: Annotated[SecretStr, AfterValidator(check_postgres_url)] = Field(
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
