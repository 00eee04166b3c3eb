"""What the gateway can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import AnyHttpUrl, Field

from afdp.config import Port, Seconds, ServiceSettings
from afdp.rpc.addresses import Address

MIB = 1024 * 1024


class GatewaySettings(ServiceSettings):
    """The gateway's settings; each has a default that works beside the embedded stack."""

    port: Port = Field(3030, description="Port to listen on.")
    metrics_port: Port = Field(0, description="A further port for the metrics; they are served under /metrics anyway.")
    notary_address: Address = Field("127.0.0.1:50051", description="The notary's host:port, or those of its replicas.")
    log_url: AnyHttpUrl = Field(
        AnyHttpUrl("http://127.0.0.1:8053"), description="Where the transparency log serves its read path."
    )
    log_reading: Literal["open", "off"] = Field(
        "open", description="Whether anybody may read the log here, under /log/ and /api/v2/."
    )
    entry_log: str = Field(
        "", description="The origin of the log that is read under /api/v2/, as the notary's; empty: the first."
    )
    # The API allows 16 MiB of evidence in a batch; what stands around it needs some room.
    max_body_bytes: int = Field(17 * MIB, ge=1024, description="Largest request body.")
    max_buffered_bytes: int = Field(256 * MIB, ge=1024, description="Bytes of all bodies held at once.")
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Largest request head: its line and headers.")
    max_in_flight: int = Field(1024, ge=1, description="Requests served at once; further ones are told to retry.")
    max_connections: int = Field(4096, ge=1, description="Open connections; further requests are told to retry.")
    header_timeout_seconds: Seconds = Field(10.0, description="How long a client may take to send a request's head.")
    keep_alive_seconds: int = Field(75, ge=1, description="How long a connection may idle between requests.")
    ready_timeout_seconds: Seconds = Field(3.0, description="How long /ready waits for the notary.")
    access_log: Literal["all", "errors", "off"] = Field(
        "errors", description="Which requests are logged: all, those answered with 4xx or 5xx, or none."
    )
