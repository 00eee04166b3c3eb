"""What the transparency service can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, AnyHttpUrl, Field

from afdp.config import Port, Seconds
from afdp.formats.note import validate_origin
from afdp.postgres import DatabaseSettings
from afdp.transparency.queue import Limits

MIB = 1024 * 1024


def _origin(origin: str) -> str:
    validate_origin(origin)
    return origin


class TransparencySettings(DatabaseSettings):
    """The settings of `python -m afdp.transparency`."""

    port: Port = 50053
    metrics_port: Port = 9092
    http_port: Port = Field(8053, description="Port of the log's read path: checkpoint, tiles, entries.")
    http_max_connections: int = Field(1024, ge=1, description="Open connections to the read path; more get a 503.")

    log_origin: Annotated[str, AfterValidator(_origin)] = Field(
        "notary.localhost", description="The log's name, a bare host name; fixed when the log is created."
    )
    log_base_url: AnyHttpUrl = Field(
        AnyHttpUrl("http://127.0.0.1:3030/log"), description="Where readers find the log; receipts name it."
    )
    log_queue_entries: int = Field(16_384, ge=1, description="Most entries that may wait to be appended.")
    log_queue_bytes: int = Field(64 * MIB, ge=1, description="Most bytes of entries that may wait.")
    log_group_entries: int = Field(4096, ge=1, description="Most entries that are appended in one group.")
    log_group_bytes: int = Field(8 * MIB, ge=1, description="Most bytes of entries that are appended in one group.")

    signer_address: str = Field("127.0.0.1:50052", description="The signer's gRPC address.")
    signer_timeout_seconds: Seconds = Field(5.0, description="Longest wait for one answer of the signer.")
    stamp_checkpoints_seconds: float = Field(
        300.0,
        ge=0,
        description="How often the newest checkpoint is stamped by the signer's external authority, if it has one; "
        "0: never.",
    )
    stamp_timeout_seconds: Seconds = Field(30.0, description="Longest wait for a stamp of an external authority.")

    # One writer and a few readers: the log needs fewer connections than the records.
    database_pool_min: int = Field(2, ge=1, le=1000, description="Connections that are opened at the start.")
    database_pool_max: int = Field(16, ge=1, le=1000, description="Most connections at a time.")

    @property
    def base_url(self) -> str:
        """The log's base URL without a slash at its end."""
        return str(self.log_base_url).rstrip("/")

    @property
    def limits(self) -> Limits:
        """The bounds of what waits and of what is appended at once."""
        return Limits(self.log_queue_entries, self.log_queue_bytes, self.log_group_entries, self.log_group_bytes)
