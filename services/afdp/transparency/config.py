"""What the transparency service can be told."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)

from afdp.config import Port, Seconds
from afdp.formats.note import VerifierKey, validate_origin
from afdp.postgres import DatabaseSettings
from afdp.rpc.addresses import Address
from afdp.tls.http import Clients
from afdp.transparency.external.config import ExternalLogSettings
from afdp.transparency.queue import Limits
from afdp.transparency.values import NewLog, WitnessPolicy
from afdp.urls import OutgoingUrl, refuse_plain

MIB = 1024 * 1024
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,62}(?:/[A-Za-z0-9._-]+)*/?")


def _origin(origin: str) -> str:
    validate_origin(origin)
    return origin


class WitnessSettings(BaseModel):
    """A witness: where it is asked, and its key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: OutgoingUrl = Field(description="Its submission prefix; `/add-checkpoint` is added.")
    vkey: str = Field(description="Its note verifier key.")

    @field_validator("vkey")
    @classmethod
    def _cosigns(cls, vkey: str) -> str:
        if not VerifierKey.parse(vkey).kind.cosigns:
            raise ValueError("is a log's key; a witness's key has a cosignature type")
        return vkey

    @property
    def key(self) -> VerifierKey:
        """Its key, read."""
        return VerifierKey.parse(self.vkey)


class LogSettings(BaseModel):
    """A further log: a name of its own, and whose entries it takes or which log it goes on from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Annotated[str, AfterValidator(_origin)]
    tenants: tuple[str, ...] = ()
    successor_of: str = ""
    base_url: AnyHttpUrl | None = None

    @property
    def new(self) -> NewLog:
        """The log to open."""
        return NewLog(self.origin, self.tenants, self.successor_of, str(self.base_url or "").rstrip("/"))


class TransparencySettings(DatabaseSettings):
    """The settings of `python -m afdp.transparency`."""

    port: Port = 50053
    metrics_port: Port = 9092
    http_port: Port = Field(8053, description="Port of the log's read path: checkpoint, tiles, entries.")
    http_client_auth: Clients = Field(
        "off", description="Whether readers must show a certificate, may, or are not asked; over TLS."
    )
    http_max_connections: int = Field(1024, ge=1, description="Open connections to the read path; more get a 503.")
    http_header_timeout_seconds: Seconds = Field(
        10.0, description="How long a reader may take to send a request's head, and how long it may take nothing."
    )

    log_origin: Annotated[str, AfterValidator(_origin)] = Field(
        "notary.localhost", description="The log's name, a bare host name; fixed when the log is created."
    )
    log_base_url: AnyHttpUrl = Field(
        AnyHttpUrl("http://127.0.0.1:3030/log"), description="Where readers find the log; receipts name it."
    )
    logs: tuple[LogSettings, ...] = Field(
        (),
        description="Further logs, which are opened if they are not there: a list of `origin` and either `tenants` or "
        "`successor_of`, and maybe `base_url`.",
    )
    log_queue_entries: int = Field(16_384, ge=1, description="Most entries that may wait to be appended.")
    log_queue_bytes: int = Field(64 * MIB, ge=1, description="Most bytes of entries that may wait.")
    log_group_entries: int = Field(4096, ge=1, description="Most entries that are appended in one group.")
    log_group_bytes: int = Field(8 * MIB, ge=1, description="Most bytes of entries that are appended in one group.")

    log_mirror: str = Field(
        "", description="Where its files are copied for a web server: a folder, or `s3://bucket/prefix`; none if empty."
    )
    log_mirror_interval_seconds: Seconds = Field(10.0, description="How often the copy is brought up to date.")
    log_mirror_endpoint: str = Field("", description="URL of a store that speaks S3 and is not Amazon's.")
    log_mirror_region: str = Field("", description="The bucket's region.")
    log_mirror_key_id: str = Field("", description="An access key; if empty, as the environment says (`AWS_…`).")
    log_mirror_secret: SecretStr | None = Field(None, description="Its secret.")
    log_mirror_secret_file: FilePath | None = Field(None, description="The file that holds its secret.")
    log_mirror_ca_file: FilePath | None = Field(None, description="PEM of the authority of the store's certificate.")
    log_audit_interval_seconds: float = Field(
        10.0, ge=0, description="How often the log looks at a part of itself; 0: never."
    )
    log_audit_bundles: int = Field(
        16, ge=1, le=4096, description="How many bundles of 256 entries it looks at each time, besides one at random."
    )
    external_logs: tuple[ExternalLogSettings, ...] = Field(
        (),
        description="Logs that others run: a list of `name`, `api_version`, and `url` with `public_key` or "
        "`signing_config` with `trusted_root`; see docs/rekor.md.",
    )
    external_logs_in_flight: int = Field(1024, ge=1, description="Most requests to logs of others at a time.")

    signer_address: Address = Field(
        "127.0.0.1:50052", description="The signer's host:port; of several replicas the first that is there."
    )
    signer_timeout_seconds: Seconds = Field(5.0, description="Longest wait for one answer of the signer.")
    stamp_checkpoints_seconds: float = Field(
        300.0,
        ge=0,
        description="How often the newest checkpoint is stamped by the signer's external authority, if it has one; "
        "0: never.",
    )
    stamp_timeout_seconds: Seconds = Field(30.0, description="Longest wait for a stamp of an external authority.")

    witnesses: tuple[WitnessSettings, ...] = Field(
        (), description="Who cosigns checkpoints: a list of `url` and `vkey`; none: nobody."
    )
    witness_quorum: int = Field(1, ge=1, description="How many of them must have cosigned a checkpoint.")
    witness_policy: Literal["fail_open", "fail_closed"] = Field(
        "fail_open", description="Whether readers get a checkpoint that too few have cosigned."
    )
    witness_interval_seconds: float = Field(1.0, ge=1, description="Least time between two checkpoints to cosign.")
    witness_timeout_seconds: Seconds = Field(5.0, description="Longest wait for one witness.")

    # One writer and a few readers: the log needs fewer connections than the records.
    database_pool_min: int = Field(2, ge=1, le=1000, description="Connections that are opened at the start.")
    database_pool_max: int = Field(16, ge=1, le=1000, description="Most connections at a time.")

    @property
    def base_url(self) -> str:
        """The log's base URL without a slash at its end."""
        return str(self.log_base_url).rstrip("/")

    @model_validator(mode="after")
    def _has_a_quorum(self) -> Self:
        keys = {each.vkey for each in self.witnesses}
        if len(keys) < len(self.witnesses):
            raise ValueError("AFDP_WITNESSES names the same key twice")
        if self.witnesses and self.witness_quorum > len(keys):
            raise ValueError(f"AFDP_WITNESS_QUORUM asks for more than the {len(keys)} witnesses named")
        return self

    @field_validator("log_mirror")
    @classmethod
    def _is_a_place(cls, place: str) -> str:
        if place and not (place.startswith("/") or _BUCKET.fullmatch(place)):
            raise ValueError("must be a folder's absolute path, or s3://bucket/prefix")
        if place.startswith("s3:") and find_spec("obstore") is None:
            raise ValueError("a bucket needs the extra `mirror`: pip install 'afdp-notary[mirror]'")
        return place.rstrip("/")

    @model_validator(mode="after")
    def _has_a_whole_key(self) -> Self:
        if bool(self.log_mirror_key_id) != bool(self.log_mirror_secret or self.log_mirror_secret_file):
            raise ValueError("AFDP_LOG_MIRROR_KEY_ID and AFDP_LOG_MIRROR_SECRET_FILE belong together")
        if self.log_mirror_secret and self.log_mirror_secret_file:
            raise ValueError("AFDP_LOG_MIRROR_SECRET and AFDP_LOG_MIRROR_SECRET_FILE: set one of them")
        if self.log_mirror_endpoint and not self.log_mirror_endpoint.startswith(("https://", "http://")):
            raise ValueError("AFDP_LOG_MIRROR_ENDPOINT must be a URL, https:// or http://")
        return self

    @field_validator("log_mirror_endpoint")
    @classmethod
    def _is_not_plain(cls, endpoint: str) -> str:
        return refuse_plain(endpoint)

    def mirror_secret(self) -> str:
        """The secret of the mirror's access key, from wherever it is; empty where there is none. Blocks."""
        if self.log_mirror_secret is not None:
            return self.log_mirror_secret.get_secret_value()
        return self.log_mirror_secret_file.read_text().strip() if self.log_mirror_secret_file else ""

    @field_validator("external_logs")
    @classmethod
    def _has_distinct_names(cls, logs: tuple[ExternalLogSettings, ...]) -> tuple[ExternalLogSettings, ...]:
        if len({each.name for each in logs}) < len(logs):
            raise ValueError("AFDP_EXTERNAL_LOGS has the same name twice")
        return logs

    @property
    def witnessing(self) -> WitnessPolicy:
        """What is asked of witnesses."""
        closed = self.witness_policy == "fail_closed"
        return WitnessPolicy(self.witness_quorum, closed, self.witness_interval_seconds, self.witness_timeout_seconds)

    @property
    def limits(self) -> Limits:
        """The bounds of what waits and of what is appended at once."""
        return Limits(self.log_queue_entries, self.log_queue_bytes, self.log_group_entries, self.log_group_bytes)
