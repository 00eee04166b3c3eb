"""The fields of a request's messages, read one by one; each fault is named by its path in the proto."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.tenant import TENANT_RULE, is_tenant
from afdp.messages import metadata as messages
from afdp.messages.metadata import WorkflowState, WorkflowType
from afdp.metadata.values import (
    Idempotency,
    LogPosition,
    Principal,
    Rekor1Entry,
    SearchTerms,
)

MAX_NAME_BYTES = 512
MAX_SIGNATURE_BYTES = 1024
MAX_ARTIFACTS = 1000
MAX_PROOF_HASHES = 64
MAX_CHECKPOINT_BYTES = 64 * 1024
MAX_MORE_LOGS = 8
MAX_ENTRY_BYTES = 64 * 1024
MOST = 2**63 - 1
"""The largest number that PostgreSQL's bigint holds."""

_METHODS = ("mtls", "none", "oidc", "service")
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")
_NIL = UUID(int=0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fields:
    """Reads the fields of one message and remembers what is wrong with them.

    Each method gives the value, or a harmless one where it is wrong; `require` or `error` tells at the end.
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._wrong: list[FieldViolation] = []

    def error(self) -> InvalidArgument | None:
        """All that is wrong."""
        return InvalidArgument("the request is not valid", fields=self._wrong) if self._wrong else None

    def require(self) -> None:
        """Raise InvalidArgument if anything is wrong."""
        if error := self.error():
            raise error

    def refuse(self, name: str, message: str) -> None:
        """Notes what is wrong with a field."""
        self._wrong.append(FieldViolation(self._path + name, message))

    def text(self, name: str, value: str, limit: int = MAX_NAME_BYTES, *, least: int = 1) -> str:
        if not value.isascii():
            return self._foreign_text(name, value, limit)
        if not least <= len(value) <= limit:
            self.refuse(name, f"must have {least} to {limit:,} bytes")
        elif "\0" in value:  # PostgreSQL has no such character
            self.refuse(name, "must not contain U+0000")
        return value

    def _foreign_text(self, name: str, value: str, limit: int) -> str:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            self.refuse(name, "must not contain lone surrogates")
            return ""
        if size > limit:
            self.refuse(name, f"must have at most {limit:,} bytes of UTF-8")
        elif "\0" in value:
            self.refuse(name, "must not contain U+0000")
        return value

    def optional_text(self, name: str, value: str) -> str | None:
        return self.text(name, value) if value else None

    def tenant(self, name: str, value: str) -> str:
        if not is_tenant(value):
            self.refuse(name, TENANT_RULE)
        return value

    def blob(self, name: str, value: bytes, limit: int, *, least: int = 1) -> bytes:
        if not least <= len(value) <= limit:
            self.refuse(name, f"must have {least} to {limit:,} bytes")
        return value

    def names(self, name: str, values: Sequence[str], limit: int) -> None:
        if not 1 <= len(values) <= limit:
            self.refuse(name, f"must be 1 to {limit:,}, with those that are kept")
        elif len(set(values)) != len(values):
            self.refuse(name, "must not have the same name twice, nor one that is kept")

    def digest(self, name: str, value: bytes) -> bytes:
        if len(value) != 32:
            self.refuse(name, "must have 32 bytes")
        return value

    def log_names(self, name: str, values: Sequence[str]) -> tuple[str, ...]:
        if len(values) > MAX_MORE_LOGS or len(set(values)) != len(values):
            self.refuse(name, f"must be at most {MAX_MORE_LOGS} names, each once")
        return tuple(self.text(f"{name}[{index}]", each) for index, each in enumerate(values))

    def position(self, name: str, value: messages.LogPosition | None) -> LogPosition:
        if value is None:
            self.refuse(name, "must be given")
            value = messages.LogPosition()
        within = self._within(name)
        return LogPosition(
            origin=within.text("origin", value.origin),
            log_index=within.number("log_index", value.log_index, 0, MOST),
            tree_size=within.number("tree_size", value.tree_size, 1, MOST),
            proof=within.digests("proof", value.proof, MAX_PROOF_HASHES),
            checkpoint=within.text("checkpoint", value.checkpoint, MAX_CHECKPOINT_BYTES),
            rekor1=within.rekor1("rekor1", value.rekor1),
        )

    def rekor1(self, name: str, value: messages.Rekor1Entry | None) -> Rekor1Entry | None:
        if value is None:
            return None
        within = self._within(name)
        return Rekor1Entry(
            body=within.blob("body", value.body, MAX_ENTRY_BYTES),
            log_index=within.number("log_index", value.log_index, 0, MOST),
            integrated_time=within.number("integrated_time", value.integrated_time, 0, MOST),
            promise=within.blob("promise", value.promise, MAX_SIGNATURE_BYTES),
        )

    def optional_digest(self, name: str, value: bytes) -> bytes | None:
        return self.digest(name, value) if value else None

    def digests(self, name: str, value: bytes, limit: int) -> bytes:
        if len(value) % 32 or len(value) > 32 * limit:
            self.refuse(name, f"must be at most {limit} hashes of 32 bytes, concatenated")
        return value

    def number(self, name: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            self.refuse(name, f"must be {least:,} to {most:,}")
        return value

    def uuid7(self, name: str, value: str) -> UUID:
        try:
            read = UUID(value) if len(value) == 36 else _NIL
        except ValueError:
            read = _NIL
        if read.version != 7:
            self.refuse(name, "must be a UUID of version 7 in its text form")
        return read

    def uuid(self, name: str, value: str) -> UUID:
        """Of any version: what is found in tables may be anything."""
        try:
            return UUID(value)
        except ValueError:
            self.refuse(name, "must be a UUID in its text form")
            return _NIL

    def optional_uuid7(self, name: str, value: str) -> UUID | None:
        return self.uuid7(name, value) if value else None

    def moment(self, name: str, value: datetime | None) -> datetime:
        if value is None:
            self.refuse(name, "must be given")
        elif value.tzinfo is None:
            self.refuse(name, "must have a time zone")
        else:
            return value
        return _EPOCH

    def optional_moment(self, name: str, value: datetime | None) -> datetime | None:
        return None if value is None else self.moment(name, value)

    def workflow_type(self, name: str, value: WorkflowType) -> WorkflowType:
        if value not in _TYPES:
            self.refuse(name, "must be one of the workflow types")
        return value

    def optional_state(self, name: str, value: WorkflowState) -> WorkflowState | None:
        if value == WorkflowState.UNSPECIFIED:
            return None
        if value not in _STATES:
            self.refuse(name, "must be one of the workflow states")
        return value

    def principal(self, name: str, value: messages.Principal | None) -> Principal:
        if value is None:
            self.refuse(name, "must be given")
            value = messages.Principal()
        within = self._within(name)
        read = Principal(
            tenant=within.tenant("tenant", value.tenant),
            issuer=within.text("issuer", value.issuer, least=0),
            subject=within.text("subject", value.subject),
            method=value.method,
        )
        if value.method not in _METHODS:
            within.refuse("method", f"must be one of {', '.join(_METHODS)}")
        return read

    def idempotency(self, name: str, value: messages.Idempotency | None) -> Idempotency | None:
        if value is None:
            return None
        within = self._within(name)
        if not _PRINTABLE.fullmatch(value.key):
            within.refuse("key", "must have 1 to 255 printable ASCII characters")
        return Idempotency(value.key, within.digest("fingerprint", value.fingerprint))

    def terms(self, name: str, value: messages.SearchTerms | None) -> SearchTerms:
        if value is None:
            self.refuse(name, "must be given")
            value = messages.SearchTerms(timestamp_utc=_EPOCH)
        within = self._within(name)
        if len(value.artifact_hashes) > MAX_ARTIFACTS:
            within.refuse("artifact_hashes", f"must have at most {MAX_ARTIFACTS:,} items")
        for index, artifact_hash in enumerate(value.artifact_hashes):
            if len(artifact_hash) != 32:
                within.refuse(f"artifact_hashes[{index}]", "must have 32 bytes")
        return SearchTerms(
            event_type=within.text("event_type", value.event_type),
            actor_type=within.text("actor_type", value.actor_type),
            actor_id=within.text("actor_id", value.actor_id),
            timestamp_utc=within.moment("timestamp_utc", value.timestamp_utc),
            artifact_hashes=tuple(value.artifact_hashes),
        )

    def _within(self, name: str) -> Fields:
        within = Fields(f"{self._path}{name}.")
        within._wrong = self._wrong
        return within


_TYPES = frozenset({WorkflowType.SIMPLE_SIGNING, WorkflowType.APPROVAL_SIGNING, WorkflowType.BATCH_SIGNING})
_STATES = frozenset(WorkflowState(number) for number in range(1, 8))
