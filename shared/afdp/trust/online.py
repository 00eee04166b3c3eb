"""What the online roles sign: the files of `online-keys`, a snapshot of which versions belong together, a timestamp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import MetaFile, Snapshot, TargetFile, Targets, Timestamp

from afdp.errors import InvalidArgument
from afdp.formats.repository import (
    ONLINE_KEYS,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    metadata_name,
    target_name,
)
from afdp.trust.metadata import parsed, require_signed, sha256_hex
from afdp.trust.offline import Offline

Signable = Targets | Snapshot | Timestamp


@dataclass(frozen=True, slots=True)
class Online:
    """What the online roles have signed.

    Attributes:
        versions: by role.
        expires: by role.
        contents: the files that `online-keys` speaks of, by their path.
    """

    versions: Mapping[str, int]
    expires: Mapping[str, datetime]
    contents: Mapping[str, bytes]


def read_online(files: Mapping[str, bytes]) -> Online | None:
    """Reads what the online roles have signed, from files as they are served; None where they have signed nothing.

    Signatures are not looked at: they are checked when they are made, and by every client.

    Raises:
        InvalidArgument: a file is missing or wrong; it is named.
    """
    if metadata_name(TIMESTAMP, 0) not in files:
        return None
    timestamp = parsed(Timestamp, f"{TIMESTAMP}.json", files[f"{TIMESTAMP}.json"]).signed
    name = metadata_name(SNAPSHOT, timestamp.snapshot_meta.version)
    snapshot = parsed(Snapshot, name, _present(files, name)).signed
    name = metadata_name(ONLINE_KEYS, snapshot.meta[f"{ONLINE_KEYS}.json"].version)
    keys = parsed(Targets, name, _present(files, name)).signed
    signed = {ONLINE_KEYS: keys, SNAPSHOT: snapshot, TIMESTAMP: timestamp}
    served = {path: target_name(path, target.hashes["sha256"]) for path, target in keys.targets.items()}
    return Online(
        versions={role: each.version for role, each in signed.items()},
        expires={role: each.expires for role, each in signed.items()},
        contents={path: _present(files, name) for path, name in served.items()},
    )


def online_keys(contents: Mapping[str, bytes], version: int, expires: datetime) -> Targets:
    """`online-keys`: it speaks of these files."""
    targets = {path: TargetFile.from_data(path, data, ["sha256"]) for path, data in sorted(contents.items())}
    return Targets(version, expires=expires, targets=targets)


def snapshot(offline: Offline, keys: bytes, keys_version: int, version: int, expires: datetime) -> Snapshot:
    """`snapshot`: `targets` as it was signed offline, and `online-keys` in the bytes that are served."""
    meta = {
        f"{TARGETS}.json": MetaFile.from_data(offline.targets.version, offline.targets_bytes, ["sha256"]),
        f"{ONLINE_KEYS}.json": MetaFile.from_data(keys_version, keys, ["sha256"]),
    }
    return Snapshot(version, expires=expires, meta=meta)


def timestamp(shot: bytes, shot_version: int, version: int, expires: datetime) -> Timestamp:
    """`timestamp`: the snapshot in the bytes that are served."""
    return Timestamp(version, expires=expires, snapshot_meta=MetaFile.from_data(shot_version, shot, ["sha256"]))


def served_files(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Target files by the names that they are served under."""
    return {target_name(path, sha256_hex(data)): data for path, data in contents.items()}


def require_believed(offline: Offline, keys: bytes, shot: bytes, stamp: bytes) -> None:
    """That a client believes metadata of the online roles: `online-keys`, `snapshot`, `timestamp`.

    Raises:
        InvalidArgument: one does not have the signature that the offline roles ask for; it is named.
    """
    name = f"{ONLINE_KEYS}.json"
    require_signed(name, parsed(Targets, name, keys), ONLINE_KEYS, offline.targets)
    name = f"{SNAPSHOT}.json"
    require_signed(name, parsed(Snapshot, name, shot), SNAPSHOT, offline.root)
    name = f"{TIMESTAMP}.json"
    require_signed(name, parsed(Timestamp, name, stamp), TIMESTAMP, offline.root)


def _present(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise InvalidArgument.field(name, "is missing")
    return files[name]
