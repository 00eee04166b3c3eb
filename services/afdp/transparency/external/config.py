"""What can be said of a log that others run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from afdp.transparency.external.values import ApiVersion
from afdp.urls import OutgoingUrl

_EMBEDDED = "embedded"


class ExternalLogSettings(BaseModel):
    """A log that others run: named by its address and key, or by a Sigstore signing config with its trusted root."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="What AFDP_LOG and AFDP_MORE_LOGS call it.")
    api_version: ApiVersion = Field(2, description="1 or 2: of Rekor's API.")
    url: OutgoingUrl | None = Field(None, description="Its base URL.")
    public_key: Path | None = Field(None, description="A PEM file with its key.")
    origin: str = Field("", description="The name of its checkpoints; by default the host of its URL.")
    read_url: OutgoingUrl | None = Field(None, description="Where a Rekor 2 is read; by default URL/api/v2.")
    signing_config: Path | None = Field(None, description="A signing config: the newest shard in it that is valid now.")
    trusted_root: Path | None = Field(None, description="The trusted root with the keys of those shards.")
    timeout_seconds: Annotated[float, Field(ge=20, le=300)] = Field(30.0, description="Longest wait for an entry.")
    whole_envelopes: bool = Field(False, description="Whether it may have whole envelopes, which a Rekor 1 needs.")

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.name == _EMBEDDED:
            raise ValueError("the name `embedded` is that of the notary's own log")
        named, found = (self.url, self.public_key), (self.signing_config, self.trusted_root)
        if all(named) == all(found) or (any(named) and any(found)):
            raise ValueError("needs either url and public_key, or signing_config and trusted_root")
        if self.api_version == 1 and not self.whole_envelopes:
            raise ValueError(
                "a Rekor 1 gets whole envelopes and its index holds their subjects: what is in the evidence can be "
                "read there by everybody and is never deleted; where no profile forbids that, set whole_envelopes"
            )
        return self
