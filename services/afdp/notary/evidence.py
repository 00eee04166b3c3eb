"""Between the API's evidence message and the plain package that is validated and hashed."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256

import orjson

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.evidence import (
    Actor,
    Artifact,
    EvidencePackage,
    canonical_evidence,
    checked_evidence,
    evidence_from_json,
)
from afdp.messages import notary as pb
from afdp.notary.model import CheckedEvidence, RefusedEvidence
from afdp.rpc.codec import WireStruct, plain


def checked(message: pb.EvidencePackage | None, field: str) -> CheckedEvidence:
    """The package of a message, found valid.

    Raises:
        InvalidArgument: names every field that breaks a rule; `field` stands before each.
    """
    if message is None:
        raise InvalidArgument.field(field, "is missing")
    package = from_message(message)
    canonical = checked_evidence(package, now=datetime.now(UTC), prefix=f"{field}.")
    return CheckedEvidence(package, canonical, sha256(canonical).digest())


def checked_item(message: pb.EvidencePackage, field: str) -> CheckedEvidence | RefusedEvidence:
    """The package of one item of a batch, or why it is refused."""
    try:
        return checked(message, field)
    except InvalidArgument as error:
        return RefusedEvidence(error, _digest(from_message(message)))


def _digest(package: EvidencePackage) -> bytes:
    """SHA-256 of the canonical form where there is one: what was too early once may be right when it is sent again."""
    try:
        return sha256(canonical_evidence(package)).digest()
    except InvalidArgument:
        return sha256(orjson.dumps(package, option=orjson.OPT_SORT_KEYS)).digest()


def from_message(message: pb.EvidencePackage) -> EvidencePackage:
    """The package as plain values; nothing is checked."""
    actor = message.actor
    return EvidencePackage(
        spec_version=message.spec_version,
        timestamp_utc=message.timestamp_utc,
        event_type=message.event_type,
        actor=Actor(actor.actor_type, actor.id, actor.auth_provider) if actor is not None else None,
        artifacts=tuple([Artifact(each.name, each.hash_sha256, each.uri) for each in message.artifacts]),
        metadata=plain(message.metadata),
    )


def to_message(canonical: bytes) -> pb.EvidencePackage:
    """The message of a package's canonical form, as it is on record."""
    package = evidence_from_json(strict_json(canonical, integers_as_doubles=True))
    actor = package.actor or Actor()
    return pb.EvidencePackage(
        spec_version=package.spec_version,
        timestamp_utc=package.timestamp_utc,
        event_type=package.event_type,
        actor=pb.Actor(actor.actor_type, actor.id, actor.auth_provider),
        artifacts=[pb.Artifact(each.name, each.uri, each.hash_sha256) for each in package.artifacts],
        metadata=WireStruct.of(dict(package.metadata)),
    )
