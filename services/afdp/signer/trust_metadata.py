"""Reading the trust root's metadata before it is signed: what it is, and whether the signer may sign such a thing.

Only what stands in `signed` is read, for that is what the key signs. Metadata of a delegated role does not name its
role: that it delegates nothing, and speaks of no file but those of `online-keys`, is what makes it that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from afdp.errors import FailedPrecondition, PermissionDenied
from afdp.formats.canonical import strict_json
from afdp.formats.members import Members
from afdp.formats.repository import ONLINE_KEYS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, is_online_path

_TYPES = (TIMESTAMP, SNAPSHOT, TARGETS, ROOT)
_FIELD = "signed"


@dataclass(frozen=True, slots=True)
class OnlineMetadata:
    """Metadata of a role that is kept online.

    Attributes:
        role: `online-keys`, `snapshot` or `timestamp`.
        refers: the versions of other metadata that it names, by file name.
        signed: the bytes that were read, and are signed.
    """

    role: str
    version: int
    expires: datetime
    refers: Mapping[str, int]
    signed: bytes


def read_online_metadata(signed: bytes) -> OnlineMetadata:
    """Reads the `signed` member of TUF metadata.

    Raises:
        InvalidArgument: it is not such metadata.
        PermissionDenied: it is of a role that is kept offline.
    """
    document = Members(strict_json(signed), _FIELD)
    kind = document.one_of("_type", _TYPES)
    if kind == ROOT:
        raise PermissionDenied("root metadata is signed offline, never here")
    if not document.string("spec_version").startswith("1."):
        document.refuse("spec_version", "must be 1.x")
    version = document.integer("version")
    if version == 0:
        document.refuse("version", "must be 1 or more")
    expires = document.time("expires")
    refers = _read_targets(document) if kind == TARGETS else _read_meta(document, kind)
    document.end()
    return OnlineMetadata(ONLINE_KEYS if kind == TARGETS else kind, version, expires, refers, signed)


def _read_targets(document: Members) -> dict[str, int]:
    if document.has("delegations"):
        raise PermissionDenied("metadata that delegates is signed offline, never here")
    targets = document.take("targets")
    if not isinstance(targets, dict):
        document.refuse("targets", "must be an object")
    if offline := sorted(name for name in targets if not is_online_path(name)):
        raise PermissionDenied(f"{offline[0]!r:.100} is signed offline, never here")
    return {}


def _read_meta(document: Members, kind: str) -> dict[str, int]:
    meta = document.take("meta")
    if not isinstance(meta, dict) or not meta:
        document.refuse("meta", "must be an object that is not empty")
    if kind == TIMESTAMP and set(meta) != {f"{SNAPSHOT}.json"}:
        document.refuse("meta", f"must name {SNAPSHOT}.json alone")
    return {name: Members(each, f"{_FIELD}.meta[{name!r:.100}]").integer("version") for name, each in meta.items()}


def require_forward(last: OnlineMetadata | None, fresh: OnlineMetadata) -> None:
    """That metadata goes forward from what was signed last for its role: in its version, and in what it refers to.

    Raises:
        FailedPrecondition: it does not; `last_version` in the error's metadata is the version to exceed.
    """
    if last is None:
        return
    facts = {"last_version": str(last.version)}
    if fresh.version <= last.version:
        raise FailedPrecondition(f"{fresh.role} was signed up to version {last.version} already", metadata=facts)
    for name, version in last.refers.items():
        if name not in fresh.refers:
            raise FailedPrecondition(f"{name} is missing: {fresh.role} named it when signed last", metadata=facts)
        if fresh.refers[name] < version:
            message = f"{name} goes back to version {fresh.refers[name]}: {fresh.role} was signed with {version}"
            raise FailedPrecondition(message, metadata=facts)
