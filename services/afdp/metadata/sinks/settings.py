"""The file that `AFDP_AUDIT_SINKS` names: where audit events are forwarded to. Its schema, strict in every name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from afdp.audit.syslog import DOCUMENTATION, LOG_AUDIT
from afdp.formats.tenant import check_tenant
from afdp.settings_file import Location, parse_settings_file, place_of, read_settings_file
from afdp.urls import check_private_url

_SETTING = "AFDP_AUDIT_SINKS"
_MIB = 1024 * 1024

Severity = Literal["informational", "low", "medium", "high"]
Format = Literal["ocsf", "cef"]
Tenant = Annotated[str, AfterValidator(check_tenant)]
Url = Annotated[str, AfterValidator(check_private_url)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Any(_Strict):
    """What every sink can be told."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9_-]{0,62}$", description="Its place in the trail is kept under this.")
    format: Format = Field(default="ocsf", description="How events are told: OCSF JSON, or CEF.")
    tenants: tuple[Tenant, ...] = Field(default=(), description="Only events of these; none: of all, and of nobody.")
    severity: Severity = Field(default="informational", description="Only events that matter this much, or more.")
    start: Literal["beginning", "now"] = Field(
        default="beginning", description="Where a sink begins that is new: with the first event on record, or the next."
    )
    batch_events: int = Field(default=500, ge=1, le=10_000, description="Most events that are sent at a time.")
    timeout_seconds: float = Field(default=20.0, gt=0, le=300, description="How long it may take to take them.")


class _Certificates(_Strict):
    ca: Path | None = Field(default=None, description="The authorities that it has its certificate from; the system's.")
    cert: Path | None = Field(default=None, description="What we show, and its intermediates, PEM.")
    key: Path | None = Field(default=None, description="Its key, PEM, not encrypted.")

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        return self


class SyslogSettings(_Any, _Certificates):
    """A receiver of syslog over TLS (RFC 5425)."""

    kind: Literal["syslog"]
    address: str = Field(description="host:port, or host alone for port 6514.")
    server_name: str = Field(default="", description="What its certificate must be of; the host of the address.")
    facility: int = Field(default=LOG_AUDIT, ge=0, le=23, description="Of RFC 5424; 13 is the audit log's.")
    enterprise: int = Field(
        default=DOCUMENTATION, ge=1, le=4_294_967_295, description="The private enterprise number of structured data."
    )
    hostname: str = Field(default="", max_length=255, description="What the messages say they come from; this host.")

    @field_validator("address")
    @classmethod
    def _names_a_host(cls, value: str) -> str:
        try:
            host, _ = split_address(value)
        except ValueError:
            raise ValueError("must be host:port, an IPv6 address in brackets") from None
        if not host or not value.isascii() or not value.isprintable() or " " in value or "/" in value:
            raise ValueError("must be host:port, an IPv6 address in brackets")
        return value


class HttpSettings(_Any, _Certificates):
    """A collector that takes events by HTTP POST."""

    kind: Literal["http"]
    url: Url
    body: Literal["lines", "array"] = Field(default="lines", description="Events one a line, or as one JSON array.")
    token_file: Path | None = Field(default=None, description="What it lets us in by; none: nothing.")
    token_scheme: str = Field(default="Bearer", pattern="^[A-Za-z][A-Za-z0-9-]{0,31}$", description="Before the token.")

    @model_validator(mode="after")
    def _are_json(self) -> Self:
        if self.body == "array" and self.format != "ocsf":
            raise ValueError("an array is of JSON, which only the format ocsf is")
        return self


class FileSettings(_Any):
    """A file that a collector follows."""

    kind: Literal["file"]
    path: Path
    rotate_bytes: int = Field(default=100 * _MIB, ge=64 * 1024, description="From which size on it is rotated.")
    keep: int = Field(default=10, ge=1, le=1000, description="How many rotated files are kept.")


SinkSettings = Annotated[SyslogSettings | HttpSettings | FileSettings, Field(discriminator="kind")]


class SinksSettings(_Strict):
    """The whole file."""

    sinks: tuple[SinkSettings, ...] = ()

    @model_validator(mode="after")
    def _have_names_of_their_own(self) -> Self:
        names = [each.name for each in self.sinks]
        if len(set(names)) < len(names):
            raise ValueError("must have each name once")
        return self


def split_address(address: str) -> tuple[str, int]:
    """Host and port; 6514, the port of RFC 5425, where there is none. Raises ValueError."""
    if address.startswith("["):
        host, closed, rest = address[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("is no address")
        port = rest[1:]
    else:
        host, _, port = address.partition(":")
    number = int(port) if port else 6514
    if not 0 < number < 65_536:
        raise ValueError("is no port")
    return host, number


def read_sinks(file: Path) -> SinksSettings:
    """The settings in a file.

    Raises:
        SettingsError: it cannot be read, or each name in it that is unknown or has a wrong value.
    """
    return parse_sinks(read_settings_file(file, _SETTING), str(file))


def parse_sinks(data: bytes, name: str) -> SinksSettings:
    """The settings in a YAML document; see `read_sinks`."""
    return parse_settings_file(SinksSettings, data, name, _SETTING, _place)


def _place(location: Location) -> str:
    """Such as `sinks[0].url`; pydantic puts the kind in between, which is no name of the file's."""
    kinds = ("syslog", "http", "file")
    return place_of([part for place, part in enumerate(location) if not (place == 2 and part in kinds)])
