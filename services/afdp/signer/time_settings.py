"""What the signer can be told about time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from afdp.config import Seconds, ServiceSettings


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
