"""The trust root as a TUF repository: who signs which file, and under which names they are served.

    role         keys      says
    root         offline   whose keys sign for every role, and how many of them it takes
    targets      offline   which keys are revoked, which logs and which independent authorities there are
    online-keys  online    every key version and every certificate of the embedded authority: it may only add
    snapshot     online    which versions of the metadata belong together
    timestamp    online    which snapshot is the newest, and until when that may be believed

The format is that of The Update Framework, version 1 of its specification, with consistent snapshots.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase

import orjson

from afdp.errors import InvalidArgument
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.canonical import strict_json
from afdp.formats.certificates import from_pem, to_pem
from afdp.formats.members import Members
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import (
    KEYS,
    LOG_VKEY,
    TRUSTED_ROOT,
    TSA_PEM,
    EvidenceKey,
    Revocation,
    TrustRoot,
    read_trust_files,
    trust_files,
)

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
ONLINE_KEYS = "online-keys"
ONLINE_ROLES = (ONLINE_KEYS, SNAPSHOT, TIMESTAMP)

ROOT_FILE = "root.json"  # in an exported folder: the root that is believed
REVOCATIONS, INDEPENDENT = "revocations.json", "independent.pem"
OFFLINE_FILES = (REVOCATIONS, LOG_VKEY, INDEPENDENT)
ONLINE_PATHS = (KEYS, "keys/*.pem", TRUSTED_ROOT, TSA_PEM)
"""What `targets` delegates to `online-keys`, as patterns (5.6.7 of the specification); all else is signed offline."""

MAX_LIFETIME = {TIMESTAMP: timedelta(days=7), SNAPSHOT: timedelta(days=31), ONLINE_KEYS: timedelta(days=31)}
"""The longest that metadata of an online role may be valid: so long can somebody hold newer files back unnoticed."""

_METADATA = re.compile(r"timestamp\.json|[1-9][0-9]{0,15}\.(?:root|targets|snapshot|online-keys)\.json")
_TARGET = re.compile(r"targets/(?:keys/)?[0-9a-f]{64}\.[A-Za-z0-9][A-Za-z0-9._:-]{0,160}")


def is_online_path(name: str) -> bool:
    """Whether the online role may speak of this file."""
    return any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in ONLINE_PATHS)


def is_served_name(name: str) -> bool:
    """Whether a repository can have a file of this name: `2.root.json`, `targets/keys/<SHA-256>.signer:1.pem`."""
    return bool(_METADATA.fullmatch(name) or _TARGET.fullmatch(name))


def metadata_name(role: str, version: int) -> str:
    """The name that a role's metadata is served under."""
    return f"{TIMESTAMP}.json" if role == TIMESTAMP else f"{version}.{role}.json"


def target_name(path: str, sha256_hex: str) -> str:
    """The name that a target file is served under: its hash stands before the last part of its path."""
    folder, slash, name = path.rpartition("/")
    return f"targets/{folder}{slash}{sha256_hex}.{name}"


def repository_contents(root: TrustRoot) -> dict[str, bytes]:
    """The files of a trust root that the online role signs, by path."""
    return {name: text.encode() for name, text in trust_files(root).items() if is_online_path(name)}


def read_repository(contents: Mapping[str, bytes]) -> TrustRoot:
    """The trust root of a repository, from the files of its online and of its offline role, by path.

    What the online role says and the offline role has to have said is compared: the logs, the independent authorities
    and the revocations.

    Raises:
        InvalidArgument: a file is missing or wrong, or the two roles disagree; the file is named.
    """
    root = read_trust_files(contents)
    if REVOCATIONS not in contents:
        raise InvalidArgument.field(REVOCATIONS, "is missing from the trust root")
    said = {each.hint: each.revocation for each in read_revocations(contents[REVOCATIONS])}
    for key in root.keys:
        if key.revoked != said.get(key.hint):
            raise InvalidArgument.field(KEYS, _disagreement(key, said.get(key.hint)))
    pinned = read_independent(contents.get(INDEPENDENT, b""))
    for authority in root.timestamp_authorities:
        if not may_be_named(root, authority, pinned):
            raise InvalidArgument.field(TRUSTED_ROOT, f"names {authority.uri}, which was not signed offline")
    return root


def may_be_named(root: TrustRoot, authority: TimestampAuthority, pinned: Container[bytes]) -> bool:
    """Whether the online role may name an authority: the notary's own, or one whose root was signed offline."""
    return not root.is_independent(authority) or authority.certificates[-1] in pinned


def _disagreement(key: EvidenceKey, said: Revocation | None) -> str:
    if said is None:
        return f"revokes {key.key_id}, which was not signed offline"
    return f"does not have the revocation of {key.key_id} that was signed offline"


# --- independent authorities ------------------------------------------------------------------------------------------


def independent_pem(root: TrustRoot) -> bytes:
    """The file `independent.pem`: the root certificate of each authority that is somebody else's."""
    theirs = (each for each in root.timestamp_authorities if root.is_independent(each))
    return to_pem(dict.fromkeys(each.certificates[-1] for each in theirs)).encode()


def read_independent(data: bytes) -> frozenset[bytes]:
    """The certificates of `independent.pem`, DER.

    Raises:
        InvalidArgument: it is not such a file.
    """
    try:
        return frozenset(from_pem(data.decode("utf-8", "replace")))
    except ValueError as error:
        raise InvalidArgument.field(INDEPENDENT, str(error)) from error


# --- revocations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRevocation:
    """What the offline role says of one key version.

    Attributes:
        key_id: `name:version`, for people.
        hint: base64 of the SHA-256 of its SubjectPublicKeyInfo: a key that is listed under another name stays revoked.
    """

    key_id: str
    hint: str
    revocation: Revocation


def revocations_json(revocations: Iterable[KeyRevocation]) -> bytes:
    """The file `revocations.json`."""
    entries = [
        {
            "key_id": each.key_id,
            "hint": each.hint,
            "at": format_timestamp(each.revocation.at),
            "compromised_since": since and format_timestamp(since),
            "reason": each.revocation.reason,
        }
        for each in revocations
        for since in [each.revocation.compromised_since]
    ]
    return orjson.dumps({"revocations": entries}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_revocations(data: bytes) -> tuple[KeyRevocation, ...]:
    """Reads `revocations.json`.

    Raises:
        InvalidArgument: it is not such a file, or revokes a key twice; the member is named.
    """
    document = Members(strict_json(data))
    revocations = tuple(map(_read_revocation, document.objects("revocations")))
    document.end()
    if len({each.hint for each in revocations}) != len(revocations):
        document.refuse("revocations", "must not have the same key twice")
    return revocations


def _read_revocation(members: Members) -> KeyRevocation:
    revocation = KeyRevocation(
        members.string("key_id"),
        members.base64_text("hint"),
        Revocation(
            members.time("at"), members.optional_time("compromised_since"), members.string("reason", empty=True)
        ),
    )
    members.end()
    return revocation
