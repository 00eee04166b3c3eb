"""The evidence package: what happened, who says they did it, and which artifacts by their SHA-256.

Plain values, the rules they must keep, and the one form that is hashed. Over REST and over gRPC the same package has
the same bytes: metadata is a `Struct` there, so every number is a double, and RFC 8785 prints doubles in one way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TypeVar

import orjson

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.canonical import MAX_DEPTH, canonical_json, depth, json_violations
from afdp.formats.timestamps import format_timestamp, parse_timestamp

SPEC_VERSION = "1.0.0"
RESERVED_ARTIFACT_NAME = "evidence-package"
"""The name of a statement's first subject, the evidence package itself."""

MAX_ARTIFACTS = 1_000
MAX_NAME_BYTES = 512
"""For names and IDs, in UTF-8."""

MAX_PACKAGE_BYTES = 256 * 1024
"""For the canonical form."""

MAX_CLOCK_SKEW = timedelta(minutes=10)
"""How far ahead of the notary's clock a package's time may be."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acted, as the submitter claims; the authenticated submitter stands in the statement."""

    actor_type: str = ""
    id: str = ""
    auth_provider: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A thing that was made or moved: its name, the SHA-256 of its bytes in hex, and where it is, if that is said."""

    name: str
    hash_sha256: str
    uri: str = ""


@dataclass(frozen=True, slots=True)
class EvidencePackage:
    """An evidence package; members that are missing are empty, `timestamp_utc` and `actor` None."""

    spec_version: str = ""
    timestamp_utc: datetime | None = None
    event_type: str = ""
    actor: Actor | None = None
    artifacts: tuple[Artifact, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)


# --- the form that is hashed ------------------------------------------------------------------------------------------


def canonical_evidence(package: EvidencePackage) -> bytes:
    """The RFC 8785 form of a package.

    `artifacts` and `metadata` always stand, an empty `uri` or `auth_provider` never, hashes are in lower case, the
    order of the artifacts is kept. Does not check the rules: see `checked_evidence`.

    Raises:
        InvalidArgument: the package has no actor or time, or holds what JSON cannot.
    """
    return _assembled(package, canonical_json(package.metadata))


def _assembled(package: EvidencePackage, metadata: bytes) -> bytes:
    """The package around its canonical metadata, written in the order of the canonical form."""
    actor, time = package.actor, package.timestamp_utc
    if actor is None or time is None:
        missing = [("actor", actor), ("timestamp_utc", time)]
        fields = [FieldViolation(name, "is missing") for name, value in missing if value is None]
        raise InvalidArgument("the evidence package is not valid", fields=fields)
    who = {"actor_type": actor.actor_type, "auth_provider": actor.auth_provider, "id": actor.id}
    if not actor.auth_provider:
        del who["auth_provider"]
    try:
        return orjson.dumps(
            {
                "actor": who,
                "artifacts": [_artifact_object(each) for each in package.artifacts],
                "event_type": package.event_type,
                "metadata": orjson.Fragment(metadata),
                "spec_version": package.spec_version,
                "timestamp_utc": format_timestamp(time),
            }
        )
    except TypeError as error:
        raise InvalidArgument.field("body", "holds a string with a lone surrogate") from error


def evidence_hash(canonical: bytes) -> str:
    """`evidence_package_hash`: the SHA-256 of the canonical form, in lower-case hex."""
    return sha256(canonical).hexdigest()


def _artifact_object(artifact: Artifact) -> dict[str, str]:
    members = {"hash_sha256": artifact.hash_sha256.lower(), "name": artifact.name}
    if artifact.uri:
        members["uri"] = artifact.uri
    return members


# --- the rules --------------------------------------------------------------------------------------------------------


def checked_evidence(
    package: EvidencePackage, *, now: datetime, skew: timedelta = MAX_CLOCK_SKEW, prefix: str = ""
) -> bytes:
    """The canonical form of a package that keeps every rule.

    Args:
        package: as it was read.
        now: the notary's clock.
        skew: how far ahead of it the package's time may be.
        prefix: what stands before each field in an error, such as `evidence_package.`.

    Raises:
        InvalidArgument: names every field that breaks a rule.
    """
    found, metadata = _inspected(package, now + skew, prefix)
    if found:
        raise InvalidArgument("the evidence package is not valid", fields=found)
    canonical = _assembled(package, metadata)
    if len(canonical) > MAX_PACKAGE_BYTES:
        where = prefix.removesuffix(".") or "body"
        message = f"has {len(canonical)} bytes in canonical form, at most {MAX_PACKAGE_BYTES} are allowed"
        raise InvalidArgument("the evidence package is not valid", fields=[FieldViolation(where, message)])
    return canonical


def evidence_violations(
    package: EvidencePackage, *, now: datetime, skew: timedelta = MAX_CLOCK_SKEW, prefix: str = ""
) -> list[FieldViolation]:
    """Every rule that a package breaks, field by field, but for its size, which only its canonical form has."""
    return _inspected(package, now + skew, prefix)[0]


def _inspected(package: EvidencePackage, latest: datetime, prefix: str) -> tuple[list[FieldViolation], bytes]:
    """The violations, and the canonical metadata, which is of use only where there are none."""
    say = _Sayer(prefix)
    if package.spec_version != SPEC_VERSION:
        say(
            "spec_version", f"must be {SPEC_VERSION}" if package.spec_version else f"is missing; must be {SPEC_VERSION}"
        )
    _check_time(package.timestamp_utc, latest, say)
    if _check_name("event_type", package.event_type, say) and not _EVENT_TYPE.fullmatch(package.event_type):
        say("event_type", "must be dotted lower-case words, such as ai.model.deployment.completed")
    if package.actor is None:
        say("actor", "is missing")
    else:
        _check_name("actor.actor_type", package.actor.actor_type, say)
        _check_name("actor.id", package.actor.id, say)
        if package.actor.auth_provider:
            _check_name("actor.auth_provider", package.actor.auth_provider, say)
    _check_artifacts(package.artifacts, say)
    metadata = _canonical_metadata(package.metadata, say)
    return say.found, metadata


_EVENT_TYPE = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9][a-z0-9_-]*)+")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_MAX_VIOLATIONS = 100


class _Sayer:
    """Collects violations under a prefix, a bounded number of them."""

    def __init__(self, prefix: str) -> None:
        self.found: list[FieldViolation] = []
        self._prefix = prefix

    def __call__(self, name: str, message: str) -> None:
        if len(self.found) < _MAX_VIOLATIONS:
            self.found.append(FieldViolation(self._prefix + name, message))


def _check_time(time: datetime | None, latest: datetime, say: _Sayer) -> None:
    if time is None:
        say("timestamp_utc", "is missing")
    elif time.utcoffset() is None:
        say("timestamp_utc", "must have a time zone")
    elif time > latest:
        say("timestamp_utc", f"is in the future: later than {format_timestamp(latest)}, which allows for clock skew")


def _plain(value: str) -> bool:
    """Whether nothing can be wrong with a name: most are short ASCII."""
    return 0 < len(value) <= MAX_NAME_BYTES and value.isascii() and "\0" not in value


def _check_name(name: str, value: str, say: _Sayer) -> bool:
    if _plain(value):
        return True
    if not value:
        say(name, "must not be empty")
    elif len(value) > MAX_NAME_BYTES or not value.isascii():
        size = len(value.encode(errors="surrogatepass"))
        if size > MAX_NAME_BYTES:
            say(name, f"has {size} bytes, at most {MAX_NAME_BYTES} are allowed")
            return False
    return bool(value) and _check_text(name, value, say)


def _check_text(name: str, value: str, say: _Sayer) -> bool:
    if value.isascii() and "\0" not in value:
        return True
    faults = json_violations(value, name)
    for fault in faults:
        say(name, fault.message)
    return not faults


def _check_artifacts(artifacts: Sequence[Artifact], say: _Sayer) -> None:
    if len(artifacts) > MAX_ARTIFACTS:
        say("artifacts", f"has {len(artifacts)} items, at most {MAX_ARTIFACTS} are allowed")
        return
    first: dict[str, int] = {}
    for index, artifact in enumerate(artifacts):
        name = artifact.name
        if _plain(name) or _check_name(f"artifacts[{index}].name", name, say):
            if name == RESERVED_ARTIFACT_NAME:
                message = f"must not be {RESERVED_ARTIFACT_NAME}: the name stands for the package itself"
                say(f"artifacts[{index}].name", message)
            elif first.setdefault(name, index) != index:
                say(f"artifacts[{index}].name", f"is the name of artifacts[{first[name]}] too; names must be unique")
        if not _SHA256.fullmatch(artifact.hash_sha256):
            say(f"artifacts[{index}].hash_sha256", "must be 64 hex digits")
        if artifact.uri and not _plain(artifact.uri):
            _check_text(f"artifacts[{index}].uri", artifact.uri, say)


def _canonical_metadata(metadata: Mapping[str, object], say: _Sayer) -> bytes:
    """The metadata's canonical form; what breaks the rules of JSON is said. It stands one level deep in the package."""
    try:
        canonical = canonical_json(metadata)
    except InvalidArgument:
        canonical = b""
    # Most metadata is shown to be harmless by its bytes alone.
    if (not canonical or canonical.count(b"{") + canonical.count(b"[") >= MAX_DEPTH) and depth(metadata) >= MAX_DEPTH:
        say("metadata", f"makes the package more than {MAX_DEPTH} levels deep")
    elif not canonical or b"\\u0000" in canonical:
        for fault in json_violations(metadata, "metadata"):
            say(fault.field, fault.message)
    return canonical


# --- reading JSON -----------------------------------------------------------------------------------------------------


def evidence_from_json(value: object, *, prefix: str = "") -> EvidencePackage:
    """A package from a JSON object, such as `strict_json` gives; checks its shape, not its rules.

    Members may be in snake_case or lowerCamelCase, and `actor.type` may stand for `actor.actor_type`; two names for one
    member are refused unless they say the same. A null counts as missing, as in proto3's JSON.

    Raises:
        InvalidArgument: names every member that is unknown or of the wrong type.
    """
    found: list[FieldViolation] = []
    reader = _Reader(found)
    package = reader.package(value, prefix)
    if found:
        raise InvalidArgument("the evidence package is not valid", fields=found[:_MAX_VIOLATIONS])
    return package


_PACKAGE = {name: name for name in ("spec_version", "timestamp_utc", "event_type", "actor", "artifacts", "metadata")}
_PACKAGE |= {"specVersion": "spec_version", "timestampUtc": "timestamp_utc", "eventType": "event_type"}
_ACTOR = {"actor_type": "actor_type", "id": "id", "auth_provider": "auth_provider"}
_ACTOR |= {"type": "actor_type", "actorType": "actor_type", "authProvider": "auth_provider"}
_ARTIFACT = {"name": "name", "uri": "uri", "hash_sha256": "hash_sha256", "hashSha256": "hash_sha256"}


_T = TypeVar("_T")


class _Reader:
    """Reads members by type and collects what is wrong with them."""

    def __init__(self, found: list[FieldViolation]) -> None:
        self._found = found

    def package(self, value: object, prefix: str) -> EvidencePackage:
        members = self._members(value, prefix, _PACKAGE)
        return EvidencePackage(
            spec_version=self._string(members, "spec_version", prefix),
            timestamp_utc=self._time(members, "timestamp_utc", prefix),
            event_type=self._string(members, "event_type", prefix),
            actor=self._actor(members["actor"], f"{prefix}actor.") if "actor" in members else None,
            artifacts=tuple(
                self._artifact(each, f"{prefix}artifacts[{index}].")
                for index, each in enumerate(self._typed(members, "artifacts", prefix, list, "an array"))
            ),
            metadata=self._typed(members, "metadata", prefix, dict, "an object"),
        )

    def _actor(self, value: object, prefix: str) -> Actor:
        members = self._members(value, prefix, _ACTOR)
        return Actor(*(self._string(members, name, prefix) for name in ("actor_type", "id", "auth_provider")))

    def _artifact(self, value: object, prefix: str) -> Artifact:
        members = self._members(value, prefix, _ARTIFACT)
        return Artifact(*(self._string(members, name, prefix) for name in ("name", "hash_sha256", "uri")))

    def _members(self, value: object, prefix: str, names: Mapping[str, str]) -> dict[str, object]:
        """The object's members under their proto names."""
        if not isinstance(value, dict):
            self._say(prefix.removesuffix(".") or "body", "must be an object")
            return {}
        members: dict[str, object] = {}
        for name, member in value.items():
            known = names.get(name)
            if known is None:
                self._say(f"{prefix}{name}", "is unknown")
            elif member is not None and members.setdefault(known, member) != member:
                self._say(f"{prefix}{known}", f"stands twice, here as {name}, with two values")
        return members

    def _string(self, members: Mapping[str, object], name: str, prefix: str) -> str:
        return self._typed(members, name, prefix, str, "a string")

    def _time(self, members: Mapping[str, object], name: str, prefix: str) -> datetime | None:
        text = self._string(members, name, prefix)
        if not text:
            return None
        try:
            return parse_timestamp(text)
        except ValueError as error:
            self._say(f"{prefix}{name}", str(error))
            return datetime.min.replace(tzinfo=UTC)

    def _typed(self, members: Mapping[str, object], name: str, prefix: str, kind: type[_T], what: str) -> _T:
        value = members.get(name)
        if isinstance(value, kind):
            return value
        if value is not None:
            self._say(f"{prefix}{name}", f"must be {what}")
        return kind()

    def _say(self, name: str, message: str) -> None:
        self._found.append(FieldViolation(name, message))
