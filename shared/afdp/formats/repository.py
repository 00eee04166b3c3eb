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
from datetime import timedelta
from fnmatch import fnmatchcase

from afdp.formats.trust import KEYS, LOG_VKEY, TRUSTED_ROOT

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
ONLINE_KEYS = "online-keys"
ONLINE_ROLES = (ONLINE_KEYS, SNAPSHOT, TIMESTAMP)

ROOT_FILE = "root.json"  # in an exported folder: the root that is believed
REVOCATIONS, INDEPENDENT, TSA = "revocations.json", "independent.pem", "tsa.pem"
OFFLINE_FILES = (REVOCATIONS, LOG_VKEY, INDEPENDENT)
ONLINE_PATHS = (KEYS, "keys/*.pem", TRUSTED_ROOT, TSA)
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
