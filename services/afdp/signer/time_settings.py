"""What the signer can be told about time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from afdp.config import Seconds, ServiceSettings
from afdp.urls import refuse_plain


class ExternalAuthoritySettings(BaseModel):
    """A time-stamping authority outside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://[^@/\s]+(/[^\s]*)?$", description="Where it answers RFC 3161 over HTTP.")
    plain_http: bool = Field(
        False, description="Whether it may be asked over http:// where it is elsewhere: what it answers is signed."
    )
    ca_file: Path = Field(description="PEM: its root, and intermediate certificates that it does not send.")
    tls_ca_file: Path | None = Field(None, description="The authority of its server's certificate; else the system's.")
    user: str | None = Field(None, description="For HTTP's basic authentication.")
    password_file: Path | None = Field(None, description="A file with the password for it.")
    timeout_seconds: Seconds = Field(5.0, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _is_asked_over_tls(self) -> Self:
        if not self.plain_http or self.user is not None:
            try:
                refuse_plain(self.url)
            except ValueError as error:
                allowed = "" if self.user is not None else ", or set plain_http for this authority"
                raise ValueError(f"url {error}{allowed}") from None
        return self


class TimeSettings(ServiceSettings):
    """The embedded authority stamps each signature; the clock is looked at, and flagged where it is wrong."""

    tsa: Literal["embedded", "off"] = Field(
        "embedded", description="Whether each signature gets a timestamp of the embedded authority (RFC 3161)."
    )
    tsa_policy_oid: str = Field(
        "1.3.6.1.4.1.32473.1.1",
        pattern=r"^[0-2](\.(0|[1-9][0-9]{0,8}))+$",
        description="OID of the policy that timestamps name; the default one is from the arc for examples (RFC 5612).",
    )
    tsa_chain_file: Path | None = Field(
        None,
        description="Certificates of the time-stamping key and their issuers, PEM; by default they are made here.",
    )
    clock: Literal["flag", "refuse"] = Field(
        "flag", description="What to do while the clock is not synchronised: say so, or give no timestamps."
    )
    clock_max_offset_seconds: Seconds = Field(
        1.0, description="How far the clock may be off; also the accuracy that timestamps state."
    )
    clock_reference: str | None = Field(
        None, description="The URL of one of the external authorities, which the clock is compared with."
    )
    clock_reference_seconds: Seconds = Field(300.0, description="How often it is.")
    tsa_external: tuple[ExternalAuthoritySettings, ...] = Field(
        (), description="External authorities for checkpoints, asked in order: url, ca_file and more, as YAML or JSON."
    )
    tsa_proxy: str | None = Field(
        None, pattern=r"^https?://[^@/\s]+/?$", description="An HTTP proxy on the way to external authorities."
    )

    @model_validator(mode="after")
    def _reference_is_configured(self) -> Self:
        if self.clock_reference not in (None, *(each.url for each in self.tsa_external)):
            raise ValueError("clock_reference must be the url of one of tsa_external")
        return self
