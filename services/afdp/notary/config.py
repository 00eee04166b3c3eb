"""What the notary can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from afdp.config import Port, Seconds, ServiceSettings
from afdp.formats.entry_request import EntryAlgorithm
from afdp.formats.statement import DEFAULT_TENANT
from afdp.formats.tenant import check_tenant
from afdp.limits.rates import Rate, RateText
from afdp.notary.access.rates import RateLimits
from afdp.notary.allowances import ALL, Allowance
from afdp.notary.entry_rules import EntryRules
from afdp.notary.stamp_policy import StampRule
from afdp.redis import RedisSettings
from afdp.rpc.addresses import Address
from afdp.tls.plain import is_loopback
from afdp.vault.settings import VaultAccessSettings

EvidencePath = Annotated[str, Field(pattern=r"^metadata(\.[^.]+)+$", max_length=256)]
"""Of a member of an evidence package's metadata."""


def _tenant_or_all(name: str) -> str:
    return name if name == ALL else check_tenant(name)


class NotarySettings(RedisSettings, VaultAccessSettings, ServiceSettings):
    """Where its peers are, and how much it takes on."""

    port: Port = 50051
    metrics_port: Port = 9094

    auth: Literal["off", "required"] = Field(
        "off", description="Who may call. off: everybody, as tenant `default`, anonymously; required: docs/access.md."
    )
    identity: Path | None = Field(
        None,
        description="A YAML file that says who is believed: issuers of tokens, certificates; see docs/identity.md.",
    )
    retention: Path | None = Field(
        None,
        description="A YAML file that says how long evidence is kept; see docs/retention.md. None: everything is.",
    )
    retention_interval_seconds: float = Field(
        86_400.0,
        ge=1,
        le=31 * 86_400,
        description="How often what is past its retention goes. Every notary looks, and one at a time does it.",
    )
    erasure_interval_seconds: float = Field(
        3600.0,
        ge=1,
        le=31 * 86_400,
        description="How often subjects are erased whose erasure was deferred, or was interrupted.",
    )
    policies: Annotated[tuple[str, ...], NoDecode] = Field(
        ("builtin",),
        min_length=1,
        description="Folders of policies (*.cedar), by commas; `builtin` are those that come with the notary.",
    )
    policy_interval_seconds: Seconds = Field(2.0, description="How often policy files are looked at for changes.")
    classifications: Annotated[tuple[str, ...], NoDecode] = Field(
        ("public", "internal", "confidential", "restricted"),
        description="The names of classifications and clearances, lowest first, by commas.",
    )
    classification_fields: Annotated[tuple[EvidencePath, ...], NoDecode] = Field(
        ("metadata.classification",), description="Where evidence has its classification, by commas."
    )
    residency_fields: Annotated[tuple[EvidencePath, ...], NoDecode] = Field(
        ("metadata.residency",), description="Where evidence has its residency, by commas."
    )
    region: str = Field("", max_length=64, description="Where this notary keeps its data, such as EU, for policies.")
    operator_tenants: Annotated[tuple[Annotated[str, AfterValidator(check_tenant)], ...], NoDecode] = Field(
        (DEFAULT_TENANT,), description="Tenants whose administrators look after keys and trust root, by commas."
    )
    audit_queue_items: int = Field(
        10_000, ge=100, description="Most audit events that wait to be written; then no request is let in."
    )
    audit_interval_seconds: Seconds = Field(
        10.0, description="How often refusals of nobody in particular are told, together."
    )
    audit_spool_bytes: int = Field(
        256 * 1024 * 1024,
        ge=0,
        description="Most bytes of the audit trail that wait in AFDP_DATA_DIR while metadata is away; then nobody is "
        "let in; 0: none wait there.",
    )
    audit_seal_seconds: Seconds = Field(1.0, description="How often new rows of the audit trail are sealed.")
    audit_anchors: bool = Field(True, description="Whether each seal is itself notarised, by which the log knows it.")
    rate_limits: RateLimits = Field(
        RateLimits(), description="How often and how much at once clients and tenants may call: docs/limits.md."
    )
    auth_failures: RateText = Field(
        Rate(1, 60), description="How often credentials from one address may fail: RATE/BURST a second, or `off`."
    )
    tls_client_auth: Literal["required", "off"] = Field(
        "required", description="Whether callers must show a certificate; off: the gateway can hand none on, either."
    )
    token_port: Port = Field(
        0, description="A further gRPC port, over TLS, for callers with a token and no certificate; 0: there is none."
    )
    tenant_quotas: dict[Annotated[str, AfterValidator(_tenant_or_all)], Allowance] = Field(
        {},
        description="How much tenants may notarise: `records_per_day`, `bytes_per_day`, `batch_packages` by tenant, "
        "under `*` for all that are not named.",
    )
    metric_tenants: int = Field(
        20, ge=0, le=1000, description="How many tenants have labels of their own in metrics; others share `other`."
    )
    signer_address: Address = Field(
        "127.0.0.1:50052", description="The signer's host:port; of several replicas the first that is there."
    )
    transparency_address: Address = Field(
        "127.0.0.1:50053", description="The transparency service's host:port, or those of its replicas."
    )
    metadata_address: Address = Field(
        "127.0.0.1:50054", description="The metadata service's host:port, or those of its replicas."
    )

    log: str = Field(
        "embedded",
        pattern=r"^[a-z][a-z0-9-]{0,31}$",
        description="What makes a receipt LOGGED: `embedded`, or a log of others by its name in AFDP_EXTERNAL_LOGS.",
    )
    more_logs: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Logs of others that entries go to as well, by their names, separated by commas."
    )
    log_away: Literal["continue", "refuse"] = Field(
        "continue", description="What is done with new evidence while a log of others takes no entries."
    )
    log_backlog_records: int = Field(
        1_000_000, ge=1, description="Most records that wait for a log of others; more are refused (429)."
    )
    external_log_in_flight: int = Field(
        64, ge=1, le=1024, description="Most entries that are on their way to one log of others at a time."
    )
    external_log_timeout_seconds: float = Field(
        45.0, gt=0, le=600, description="Longest wait for one; longer than the log service waits for the log itself."
    )
    logged_wait_seconds: float = Field(
        20.0,
        ge=0,
        le=60,
        description="Longest wait for a log of others where a caller asks for it; then the receipt goes out SIGNED.",
    )
    batch_items: int = Field(256, ge=1, le=1024, description="Most evidence packages in one batch.")
    batch_bytes: int = Field(
        16 * 1024 * 1024, ge=1024 * 1024, description="Most bytes that one batch takes in a message to a peer."
    )
    queue_items: int = Field(4096, ge=1, description="Most evidence packages that wait; more are refused (429).")
    queue_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="Most bytes that wait, weighed as batch_bytes are."
    )
    watch_interval_seconds: Seconds = Field(
        0.2, description="How often it is looked whether there is something new for those who watch receipts."
    )
    watch_heartbeat_seconds: Seconds = Field(
        15.0, description="How long those who watch receipts hear nothing at most: then a cursor alone."
    )
    stage_timeout_seconds: Seconds = Field(10.0, description="Longest wait for one stage of a batch.")
    log_entries: Literal["open", "off"] = Field(
        "open", description="Whether entries that callers have signed are logged (Rekor v2's API)."
    )
    entry_algorithms: Annotated[tuple[EntryAlgorithm, ...], NoDecode] = Field(
        tuple(EntryAlgorithm),
        min_length=1,
        description="What may have signed them: Sigstore's `keyDetails`, by commas.",
    )
    entry_certificates: bool = Field(
        False,
        description="Whether they may name their signer by a certificate; its e-mail address is in the log for ever.",
    )
    entry_log: str = Field("", description="The origin of the log that takes them; empty: that of the caller's tenant.")
    entry_batch_items: int = Field(1024, ge=1, le=4096, description="Most of them in one append.")
    stream_in_flight: int = Field(256, ge=1, description="Most requests of one stream that are worked on at once.")
    max_exports: int = Field(
        8, ge=1, le=1024, description="Most exports of evidence that are read at once; of one tenant half of them."
    )
    witness_wait_seconds: float = Field(
        10.0,
        ge=0,
        le=60,
        description="Longest wait for witnesses where a caller asks for it; then the receipt goes out as it is.",
    )
    external_stamps: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Which receipts an authority outside stamps as well: event types such as ai.model.*, before a "
        "slash the tenant where it is for one, separated by commas; none: no receipt, only checkpoints.",
    )
    external_stamps_in_flight: int = Field(8, ge=1, le=256, description="Most such stamps that are asked for at once.")
    external_stamp_timeout_seconds: float = Field(
        30.0, gt=0, le=1800, description="Longest wait for one, with all authorities that are asked in turn."
    )
    recovery_interval_seconds: Seconds = Field(15.0, description="How often unfinished records are looked for.")
    reconcile_interval_seconds: float = Field(
        86_400.0,
        ge=0,
        le=31 * 86_400,
        description="How often all records are held against the logs, slowly, beside the service; 0: never.",
    )
    reconcile_grace_seconds: float = Field(
        60.0, ge=0, le=86_400, description="How long a record may wait to be logged before that counts as a gap."
    )
    notarise_keys: bool = Field(True, description="Whether each key version and each revocation is itself notarised.")
    key_interval_seconds: Seconds = Field(
        30.0, description="How often new key versions and revocations are looked for."
    )
    trust_interval_seconds: Seconds = Field(
        5.0, description="How often the trust root's repository is compared with the keys."
    )
    trust_timestamp_seconds: float = Field(
        86_400.0,
        ge=1,
        le=7 * 86_400,
        description="How long its timestamp is valid: so long can newer revocations be held back unnoticed.",
    )

    @model_validator(mode="after")
    def _asks_who_calls_from_elsewhere(self) -> Self:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(
                f"AFDP_HOST is {self.host}, which other machines reach, and AFDP_AUTH off lets everybody in: "
                "set it to required, and AFDP_IDENTITY to who is believed"
            )
        return self

    @property
    def unsaid(self) -> tuple[str, ...]:
        """As `ServiceSettings.unsaid`."""
        if "auth" in self.model_fields_set:
            return super().unsaid
        return (
            *super().unsaid,
            "AFDP_AUTH is not said: set it to required, and AFDP_IDENTITY to who is believed, or to off to let in "
            "everybody on this machine",
        )

    @property
    def grpc_clients(self) -> tuple[bool, bool]:
        """Callers from outside come here."""
        return self.tls_client_auth == "required", True

    @property
    def grpc_token_port(self) -> int:
        """As the settings say."""
        return self.token_port

    @model_validator(mode="after")
    def _takes_tokens_over_tls(self) -> Self:
        if self.token_port and self.tls == "off":
            raise ValueError("AFDP_TOKEN_PORT is for TLS: over plain text the one port asks nobody for a certificate")
        return self

    @property
    def main_log(self) -> str:
        """The log of others that makes a receipt LOGGED; empty where ours does."""
        return "" if self.log == "embedded" else self.log

    @model_validator(mode="after")
    def _names_each_log_once(self) -> Self:
        names = [self.log, *self.more_logs]
        if len(set(names)) < len(names) or "embedded" in self.more_logs:
            raise ValueError("AFDP_MORE_LOGS names logs of others, each once, and not that of AFDP_LOG")
        return self

    @field_validator(
        "external_stamps",
        "entry_algorithms",
        "more_logs",
        "policies",
        "classifications",
        "classification_fields",
        "residency_fields",
        "operator_tenants",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("classifications")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower() for name in value)
        if len(set(names)) < len(names):
            raise ValueError("each name stands once")
        return names

    @field_validator("external_stamps")
    @classmethod
    def _are_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for rule in value:
            try:
                StampRule.parse(rule)
            except ValueError as error:
                raise ValueError(f"{rule!r}: {error}") from None
        return value

    @property
    def entry_rules(self) -> EntryRules:
        """Which entries of callers are taken."""
        algorithms = frozenset(self.entry_algorithms)
        return EntryRules(self.log_entries == "open", algorithms, self.entry_certificates, self.entry_log)
