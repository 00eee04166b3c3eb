"""The trust root's TUF repository as the notary keeps it: read from what is published, and what shall follow it.

Imports python-tuf, which takes a while: `trust.py` does so beside the event loop, and only where there is a repository.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.repository import (
    OFFLINE_FILES,
    ONLINE_KEYS,
    ROOT_FILE,
    SNAPSHOT,
    TIMESTAMP,
    KeyRevocation,
    may_be_named,
    metadata_name,
    read_repository,
    repository_contents,
)
from afdp.formats.spki import load_ed25519
from afdp.formats.trust import TrustRoot, trust_files
from afdp.formats.trust_changes import added, with_revocations, without_revocations
from afdp.trust import online
from afdp.trust.metadata import payload, sealed, tuf_key
from afdp.trust.offline import Offline, read_offline, require_follows
from afdp.trust.online import Online, read_online

LIFETIME = timedelta(days=30)  # of online-keys and snapshot, which are signed anew with every timestamp

_PUBLISHED = re.compile(
    rf"[1-9][0-9]{{0,15}}\.(?:root|targets)\.json|targets/[0-9a-f]{{64}}\.({'|'.join(OFFLINE_FILES)})"
)

Sign = Callable[[bytes], Awaitable[tuple[bytes, bytes]]]
"""From the canonical `signed` member to the raw public key and the signature; `last_version` in the error's metadata
is the version to exceed."""


@dataclass(frozen=True, slots=True)
class Repository:
    """What is published, verified.

    Attributes:
        revision: of the publication.
        files: as they are served.
        root: what a client that follows the repository believes.
    """

    revision: int
    files: Mapping[str, bytes]
    offline: Offline
    online: Online
    root: TrustRoot

    @classmethod
    def read(cls, revision: int, files: Mapping[str, bytes]) -> Repository:
        """Reads a publication.

        Raises:
            InvalidArgument: it is not what a notary writes; the file is named.
        """
        offline, signed = read_offline(files), read_online(files)
        if signed is None:
            raise InvalidArgument.field(f"{TIMESTAMP}.json", "is missing")
        root = read_repository({**signed.contents, **offline.contents})
        return cls(revision, files, offline, signed, root)

    def export(self, live: TrustRoot) -> dict[str, str]:
        """The files of `afdp trust export`: what is published, later versions of keys, and revocations that wait.

        Logs and independent authorities are those that were signed offline: a client that follows the repository never
        finds that it has to forget one.
        """
        said = _sayable(self.offline, self.root, live)
        root = with_revocations(said, _revocations(live))
        return {**trust_files(root), ROOT_FILE: self.offline.root_bytes.decode()}

    def pending(self, live: TrustRoot) -> dict[str, str]:
        """The same files with the logs and authorities that were not signed offline yet; none where there are none."""
        said, known = _sayable(self.offline, self.root, live), self.believed(live)
        if (said.logs, said.timestamp_authorities) == (known.logs, known.timestamp_authorities):
            return {}
        return trust_files(known)

    def believed(self, live: TrustRoot) -> TrustRoot:
        """What is published and all that the notary knows beyond it."""
        return with_revocations(added(self.root, live), self.offline.revocations)

    def unsigned_revocations(self, live: TrustRoot) -> list[str]:
        """The key versions whose revocation, as it stands, the offline roles have not signed."""
        signed = {(each.key_id, each.revocation) for each in self.offline.revocations}
        return [each.key_id for each in _revocations(live) if (each.key_id, each.revocation) not in signed]

    def says(self, live: TrustRoot) -> bool:
        """Whether the online role says all that it may of what the notary knows."""
        return repository_contents(_sayable(self.offline, self.root, live)) == self.online.contents

    def life_left(self, lifetime: timedelta) -> float:
        """How much of its life the metadata of the online roles has left, 0 to 1, whichever has the least."""
        now = datetime.now(UTC)
        lifetimes = {TIMESTAMP: lifetime, SNAPSHOT: LIFETIME, ONLINE_KEYS: LIFETIME}
        return max(0.0, min((ends - now) / lifetimes[role] for role, ends in self.online.expires.items()))


def offline_after(old: Repository | None, fresh: Mapping[str, bytes]) -> Offline:
    """What the offline roles have signed once `fresh` files are published.

    Raises:
        InvalidArgument: a file is wrong, or not signed as it must be; it is named.
        FailedPrecondition: it does not follow from what is published.
    """
    for index, name in enumerate(fresh):
        if not _PUBLISHED.fullmatch(name):
            raise InvalidArgument.field(f"files[{index}].name", "must be a name of what the offline roles sign")
    kept = dict(old.offline.files) if old is not None else {}
    if any(name.endswith(".targets.json") for name in fresh):
        kept = {name: data for name, data in kept.items() if not name.endswith(".targets.json")}
    offline = read_offline({**kept, **fresh})
    require_follows(old.offline if old is not None else None, offline)
    return offline


def require_online_key(offline: Offline, spki: bytes) -> None:
    """That the signer's trust key is the one that the offline roles let sign for the online ones.

    Raises:
        FailedPrecondition: it is another.
    """
    if tuf_key(load_ed25519(spki)).keyid != offline.online_key:
        raise FailedPrecondition(
            "the signer's trust key is not the one that the offline roles delegate to: "
            "have them delegate to it, with `afdp trust sign --online-key`"
        )


async def publication(
    old: Repository | None, offline: Offline, live: TrustRoot, lifetime: timedelta, sign: Sign
) -> dict[str, bytes]:
    """The files of the next publication, with everything online signed anew.

    Raises:
        FailedPrecondition: the offline roles name a log that the notary does not know.
        NotaryError: what `sign` raises.
    """
    root = _sayable(offline, old.root if old is not None else None, live)
    if unknown := sorted(map(str, offline.logs - {log.vkey for log in root.logs})):
        raise FailedPrecondition(f"the offline roles name a log that is not this notary's: {unknown[0]}")
    contents = repository_contents(root)
    read_repository({**contents, **offline.contents})
    now = datetime.now(UTC).replace(microsecond=0)
    versions = {role: version + 1 for role, version in old.online.versions.items()} if old is not None else {}
    keys = online.online_keys(contents, versions.get(ONLINE_KEYS, 1), now + LIFETIME)
    keys_bytes = await _signed(keys, sign)
    shot = online.snapshot(offline, keys_bytes, keys.version, versions.get(SNAPSHOT, 1), now + LIFETIME)
    shot_bytes = await _signed(shot, sign)
    stamp = online.timestamp(shot_bytes, shot.version, versions.get(TIMESTAMP, 1), now + lifetime)
    stamp_bytes = await _signed(stamp, sign)
    online.require_believed(offline, keys_bytes, shot_bytes, stamp_bytes)
    return {
        **offline.files,
        **online.served_files(contents),
        metadata_name(ONLINE_KEYS, keys.version): keys_bytes,
        metadata_name(SNAPSHOT, shot.version): shot_bytes,
        metadata_name(TIMESTAMP, stamp.version): stamp_bytes,
    }


def _revocations(live: TrustRoot) -> list[KeyRevocation]:
    return [KeyRevocation(key.key_id, key.hint, key.revoked) for key in live.keys if key.revoked is not None]


def _sayable(offline: Offline, published: TrustRoot | None, live: TrustRoot) -> TrustRoot:
    """What the online role may say: all that was published and is known, as far as the offline roles let it."""
    known = without_revocations(added(published, live) if published is not None else live)
    known = replace(known, logs=tuple(log for log in known.logs if log.vkey in offline.logs))
    authorities = tuple(each for each in known.timestamp_authorities if may_be_named(known, each, offline.independent))
    return with_revocations(replace(known, timestamp_authorities=authorities), offline.revocations)


async def _signed(signed: online.Signable, sign: Sign) -> bytes:
    """Metadata, signed; in a higher version where the signer has signed this one already, for another or in vain."""
    try:
        public_key, signature = await sign(payload(signed))
    except FailedPrecondition as error:
        last = int(error.metadata.get("last_version", "0"))
        if last < signed.version:
            raise
        signed.version = last + 1
        public_key, signature = await sign(payload(signed))
    return sealed(signed, public_key, signature)
