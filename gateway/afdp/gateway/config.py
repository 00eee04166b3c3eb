"""What the gateway can be told."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import AnyHttpUrl, Field, IPvAnyNetwork, field_validator, model_validator
from pydantic_settings import NoDecode

from afdp.config import Port, Seconds, ServiceSettings
from afdp.limits.rates import Rate, RateText
from afdp.rpc.addresses import Address
from afdp.tls.http import Clients
from afdp.tls.plain import is_loopback

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
        "", description="The log that is read under /api/v2/, until another goes on from it; empty: the first."
    )
    tls_client_auth: Clients = Field(
        "optional", description="Whether callers must show a certificate, may, or are not asked."
    )
    ingress_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names (DNS, URI) in the certificate of who ends TLS before us, by commas; it alone is believed "
        "when it hands on a client's certificate (Client-Cert, RFC 9440) and address (X-Forwarded-For).",
    )
    # The API allows 16 MiB of evidence in a batch; what stands around it needs some room.
    max_body_bytes: int = Field(17 * MIB, ge=1024, description="Largest request body.")
    max_buffered_bytes: int = Field(256 * MIB, ge=1024, description="Bytes of all bodies held at once.")
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Largest request head: its line and headers.")
    max_headers: int = Field(100, ge=8, description="Most headers of one request.")
    max_in_flight: int = Field(1024, ge=1, description="Requests served at once; further ones are told to retry.")
    max_event_streams: int = Field(
        800, ge=1, le=1000, description="Open streams of server-sent events; further ones are told to retry."
    )
    max_connections: int = Field(4096, ge=1, description="Open connections; further requests are told to retry.")
    max_connections_per_address: int = Field(
        1024, ge=0, description="Open connections from one IP address; 0: as many as there may be in all."
    )
    max_pipelined: int = Field(64, ge=1, description="Requests that wait on one connection for earlier answers.")
    address_rate: RateText = Field(
        Rate(5000, 10_000), description="How often requests may come from one address: RATE/BURST a second, or `off`."
    )
    auth_failures: RateText = Field(
        Rate(1, 60), description="How often credentials from one address may fail: RATE/BURST a second, or `off`."
    )
    proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (), description="Networks of proxies of ours, by commas: X-Forwarded-For is believed from them alone."
    )
    min_body_bytes_per_second: int = Field(
        1024, ge=0, description="How fast a body must arrive, after the time that a head has; 0: within the deadline."
    )
    header_timeout_seconds: Seconds = Field(10.0, description="How long a client may take to send a request's head.")
    keep_alive_seconds: int = Field(75, ge=1, description="How long a connection may idle between requests.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, by commas, such as https://console.example; none: none."
    )
    hsts_seconds: int = Field(
        31_536_000, ge=0, description="How long browsers that came over TLS shall not come without it."
    )
    ready_timeout_seconds: Seconds = Field(3.0, description="How long /ready waits for the notary.")
    access_log: Literal["all", "errors", "off"] = Field(
        "errors", description="Which requests are logged: all, those answered with 4xx or 5xx, or none."
    )

    audit_interval_seconds: Seconds = Field(
        10.0, description="How often the notary is told what was refused here, for its audit trail."
    )

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?", origin) for origin in value):
            raise ValueError(
                "each must be a scheme, a host and perhaps a port, in lower case, with no slash at its end"
            )
        return value

    @field_validator("proxies", "cors_origins", "ingress_names", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def is_proxy(self, address: str) -> bool:
        """Whether an IP address is that of a proxy of ours."""
        return bool(self.proxies) and any(ip_address(address) in network for network in self.proxies)

    @model_validator(mode="after")
    def _read_the_log_safely(self) -> Self:
        if self.log_url.scheme == "http" and not is_loopback(self.log_url.host or ""):
            raise ValueError("AFDP_LOG_URL is plain text to another machine: use https")
        return self
