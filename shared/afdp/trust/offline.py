"""What the offline roles have signed: root after root, `targets`, and the files that it speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from afdp.errors import FailedPrecondition, FieldViolation, InvalidArgument
from afdp.formats.note import NoteError, VerifierKey
from afdp.formats.repository import (
    INDEPENDENT,
    OFFLINE_FILES,
    ONLINE_KEYS,
    ONLINE_PATHS,
    REVOCATIONS,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    KeyRevocation,
    metadata_name,
    read_independent,
    read_revocations,
    target_name,
)
from afdp.formats.trust import LOG_VKEY
from afdp.formats.trust_changes import is_as_strict
from afdp.trust.metadata import parsed, require_signed

_VERSIONED = re.compile(r"([1-9][0-9]{0,15})\.(root|targets)\.json")


@dataclass(frozen=True, slots=True)
class Offline:
    """All of it, verified but for its expiry.

    Attributes:
        files: as they are served; every root since the first that is known.
        online_key: the ID of the key that signs for the online roles.
        contents: the files that `targets` speaks of, by their path.
        independent: the root certificates of the authorities that are somebody else's, DER.
    """

    files: Mapping[str, bytes]
    root: Root
    targets: Targets
    online_key: str
    contents: Mapping[str, bytes]
    revocations: tuple[KeyRevocation, ...]
    logs: frozenset[VerifierKey]
    independent: frozenset[bytes]

    @property
    def root_bytes(self) -> bytes:
        """The newest root, as it is served."""
        return self.files[metadata_name(ROOT, self.root.version)]

    @property
    def targets_bytes(self) -> bytes:
        """`targets`, as it is served."""
        return self.files[metadata_name(TARGETS, self.targets.version)]


def read_offline(files: Mapping[str, bytes]) -> Offline:
    """Reads and verifies what the offline roles have signed, from files as they are served; others are left alone.

    The first root is believed; each further one must be signed by the one before it and by itself.

    Raises:
        InvalidArgument: a file is missing, wrong, or not signed as it must be; the file is named.
    """
    roots, root = _read_roots(files)
    online_key = _online_key(metadata_name(ROOT, root.version), root)
    name, targets = _read_targets(files, root)
    _require_delegation(name, targets, root, online_key)
    contents = dict(_read_contents(name, targets, files))
    served = {**roots, name: files[name]}
    for path, content in contents.items():
        served[target_name(path, targets.targets[path].hashes["sha256"])] = content
    return Offline(
        files=served,
        root=root,
        targets=targets,
        online_key=online_key,
        contents=contents,
        revocations=_named(REVOCATIONS, contents[REVOCATIONS]),
        logs=frozenset(_read_vkeys(contents[LOG_VKEY])),
        independent=read_independent(contents.get(INDEPENDENT, b"")),
    )


def offline_targets(name: str, data: bytes) -> dict[str, str]:
    """The SHA-256, in hex, of each file that `targets` speaks of, by path; nothing is verified.

    Raises:
        InvalidArgument: it is no such metadata; the file is named.
    """
    targets = parsed(Targets, name, data).signed.targets
    return {path: _digest(name, path, target) for path, target in targets.items()}


def require_follows(old: Offline | None, new: Offline) -> None:
    """That what was signed follows from what was signed before: newer, nothing taken back, and not expired.

    Raises:
        FailedPrecondition: it does not; the message says what is taken back, or has expired.
    """
    now = datetime.now(UTC)
    for role, signed in ((ROOT, new.root), (TARGETS, new.targets)):
        if signed.is_expired(now):
            raise FailedPrecondition(f"{role} expired at {signed.expires:%Y-%m-%d %H:%M:%SZ}: sign it again")
    if old is None:
        return
    for name, data in old.files.items():
        if name.endswith(f".{ROOT}.json") and new.files.get(name) != data:
            raise FailedPrecondition(f"{name} is another than the one that is published")
    if new.targets_bytes != old.targets_bytes and new.targets.version <= old.targets.version:
        raise FailedPrecondition(f"targets is published in version {old.targets.version} already: sign a newer one")
    if taken := list(_taken_back(old, new)):
        raise FailedPrecondition(f"what was signed takes back {'; '.join(taken)}")


def _taken_back(old: Offline, new: Offline) -> Iterator[str]:
    said = {each.hint: each.revocation for each in new.revocations}
    for each in old.revocations:
        if not is_as_strict(said.get(each.hint), each.revocation):
            yield f"the revocation of {each.key_id}"
    for vkey in sorted(old.logs - new.logs, key=str):
        yield f"the log {vkey}"
    if old.independent - new.independent:
        yield "the root certificate of an independent authority"


# --- metadata ---------------------------------------------------------------------------------------------------------


def _read_roots(files: Mapping[str, bytes]) -> tuple[dict[str, bytes], Root]:
    """Every root by name, and the newest."""
    versions = sorted(_versions(files, ROOT))
    if not versions:
        raise InvalidArgument.field("1.root.json", "is missing")
    if versions != list(range(versions[0], versions[0] + len(versions))):
        raise InvalidArgument.field(metadata_name(ROOT, versions[-1]), "does not follow: a root before it is missing")
    trusted: Root | None = None
    for version in versions:
        name = metadata_name(ROOT, version)
        metadata = parsed(Root, name, files[name])
        _require_version(name, metadata, version)
        for signer in (trusted, metadata.signed):
            if signer is not None:
                require_signed(name, metadata, ROOT, signer)
        trusted = metadata.signed
    if trusted is None:
        raise InvalidArgument.field("1.root.json", "is missing")
    return {metadata_name(ROOT, version): files[metadata_name(ROOT, version)] for version in versions}, trusted


def _read_targets(files: Mapping[str, bytes], root: Root) -> tuple[str, Targets]:
    versions = _versions(files, TARGETS)
    if len(versions) != 1:
        raise InvalidArgument.field("targets.json", f"must be there in one version, not in {len(versions)}")
    name = metadata_name(TARGETS, versions[0])
    metadata = parsed(Targets, name, files[name])
    _require_version(name, metadata, versions[0])
    require_signed(name, metadata, TARGETS, root)
    return name, metadata.signed


def _versions(files: Mapping[str, bytes], role: str) -> list[int]:
    found = (_VERSIONED.fullmatch(name) for name in files)
    return [int(each[1]) for each in found if each and each[2] == role]


def _require_version(name: str, metadata: Metadata[Root] | Metadata[Targets], version: int) -> None:
    if metadata.signed.version != version:
        raise InvalidArgument.field(name, f"is of version {metadata.signed.version}")


def _online_key(name: str, root: Root) -> str:
    """The one key of the online roles. A key that counts twice, or for a role it is not meant for, is refused."""
    if not root.consistent_snapshot:
        raise InvalidArgument.field(name, "must have consistent_snapshot")
    values = [key.keyval.get("public") for key in root.keys.values()]
    if len(set(values)) != len(values):
        raise InvalidArgument.field(name, "has the same key under two IDs")
    online = {keyid for role in (SNAPSHOT, TIMESTAMP) for keyid in root.roles[role].keyids}
    if len(online) != 1:
        raise InvalidArgument.field(name, "must have one key, the same, for snapshot and timestamp")
    if online & {keyid for role in (ROOT, TARGETS) for keyid in root.roles[role].keyids}:
        raise InvalidArgument.field(name, "must not let the online key sign for root or targets")
    return next(iter(online))


def _require_delegation(name: str, targets: Targets, root: Root, online_key: str) -> None:
    delegations = targets.delegations
    roles = delegations.roles if delegations is not None else None
    if delegations is None or roles is None or set(roles) != {ONLINE_KEYS}:
        raise InvalidArgument.field(name, f"must delegate to {ONLINE_KEYS} and to nobody else")
    role = roles[ONLINE_KEYS]
    if tuple(role.paths or ()) != ONLINE_PATHS or not role.terminating:
        raise InvalidArgument.field(name, f"must delegate {', '.join(ONLINE_PATHS)} to {ONLINE_KEYS}, and end there")
    if set(role.keyids) != {online_key} or delegations.keys.get(online_key) != root.keys[online_key]:
        raise InvalidArgument.field(name, f"must delegate to {ONLINE_KEYS} with the key that root has for snapshot")


# --- files ------------------------------------------------------------------------------------------------------------


def _read_contents(name: str, targets: Targets, files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for path in (REVOCATIONS, LOG_VKEY):
        if path not in targets.targets:
            raise InvalidArgument.field(name, f"does not speak of {path}")
    for path, target in targets.targets.items():
        if path not in OFFLINE_FILES:
            raise InvalidArgument.field(name, f"speaks of {path!r:.100}, which is not signed offline")
        served = target_name(path, _digest(name, path, target))
        if served not in files:
            raise InvalidArgument.field(served, "is missing")
        try:
            target.verify_length_and_hashes(files[served])
        except LengthOrHashMismatchError as error:
            raise InvalidArgument.field(served, f"is not the file that {name} speaks of") from error
        yield path, files[served]


def _digest(name: str, path: str, target: TargetFile) -> str:
    if "sha256" not in target.hashes:
        raise InvalidArgument.field(name, f"has no SHA-256 of {path}")
    return target.hashes["sha256"]


def _named(path: str, data: bytes) -> tuple[KeyRevocation, ...]:
    try:
        return read_revocations(data)
    except InvalidArgument as error:
        fields = [FieldViolation(f"{path}: {each.field}", each.message) for each in error.fields]
        raise InvalidArgument("what was signed is not valid", fields=fields) from error


def _read_vkeys(data: bytes) -> Iterator[VerifierKey]:
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            yield VerifierKey.parse(line)
        except NoteError as error:
            raise InvalidArgument.field(LOG_VKEY, str(error)) from error
