"""What a service can be told about Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from afdp.config import Seconds, ServiceSettings
from afdp.tls.plain import is_loopback


def check_redis_url(url: str) -> str:
    """The URL itself, if it is one of Redis and what is sent there stays here or is encrypted.

    Raises:
        ValueError: it is not; the message does not hold it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must be redis://HOST:PORT/DB, rediss://… or unix://PATH") from None
    if parts.scheme not in ("redis", "rediss", "unix") or not (host or parts.scheme == "unix"):
        raise ValueError("must be redis://HOST:PORT/DB, rediss://… or unix://PATH")
    if parts.scheme == "redis" and not is_loopback(host):
        raise ValueError("names another machine, and plain text stays on this one: use rediss://")
    if any(name.lower().startswith("ssl_") for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError("must not say how TLS is done: each certificate is verified, against AFDP_REDIS_CA_FILE")
    return url


def _checked(url: SecretStr) -> SecretStr:
    check_redis_url(url.get_secret_value())
    return url


class RedisSettings(ServiceSettings):
    """The settings of a service that uses Redis where there is one."""

    redis_url: Annotated[SecretStr, AfterValidator(_checked)] | None = Field(
        None,
        description="Redis, which all replicas share: rediss://, or redis:// and unix:// on this machine; none.",
    )
    redis_ca_file: Path | None = Field(
        None, description="The authority of Redis's certificate, PEM; else the system's."
    )
    redis_timeout_seconds: Seconds = Field(
        0.05, description="Longest wait of a call for Redis; then it is done without, until Redis is back."
    )
    redis_retry_seconds: Seconds = Field(1.0, description="How often it is looked whether Redis is back.")
