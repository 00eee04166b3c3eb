"""What the offline roles have signed elsewhere, fetched from where it is published.

The online metadata is only asked which version of `targets` is the newest: what is taken is verified with the root that
is at hand, and whoever hides a newer one gains nothing, for a version that is published cannot be published again.
"""

from __future__ import annotations

from collections.abc import Callable

from tuf.api.metadata import Snapshot, Timestamp

from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.repository import ONLINE_KEYS, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, metadata_name, target_name
from afdp.trust.metadata import parsed
from afdp.trust.offline import Offline, offline_targets, read_offline

Fetch = Callable[[str], bytes | None]
"""Gives a file below /trust/, or None where there is none."""


def caught_up(offline: Offline, fetch: Fetch) -> Offline:
    """What was signed, with what has been signed and published since.

    Raises:
        FailedPrecondition: what is published does not follow from it.
    """
    files = dict(offline.files)
    version = offline.root.version
    while (root := fetch(metadata_name(ROOT, version + 1))) is not None:
        version += 1
        files[metadata_name(ROOT, version)] = root
    try:
        newest = _newest_targets(fetch)
        if newest > offline.targets.version:
            files = {name: data for name, data in files.items() if not name.endswith(f".{TARGETS}.json")}
            name = metadata_name(TARGETS, newest)
            files[name] = _required(fetch, name)
            for path, digest in offline_targets(name, files[name]).items():
                served = target_name(path, digest)
                files[served] = _required(fetch, served)
        return read_offline(files)
    except InvalidArgument as error:
        raise FailedPrecondition(f"what is published does not follow from what was signed here: {error}") from error


def _newest_targets(fetch: Fetch) -> int:
    """The version of `targets` that is published; 0 where none is."""
    stamp = fetch(metadata_name(TIMESTAMP, 0))
    if stamp is None:
        return 0
    name = metadata_name(SNAPSHOT, parsed(Timestamp, TIMESTAMP, stamp).signed.snapshot_meta.version)
    meta = parsed(Snapshot, name, _required(fetch, name)).signed.meta
    if f"{TARGETS}.json" not in meta or f"{ONLINE_KEYS}.json" not in meta:
        raise InvalidArgument.field(name, "does not name the metadata that it must")
    return meta[f"{TARGETS}.json"].version


def _required(fetch: Fetch, name: str) -> bytes:
    data = fetch(name)
    if data is None:
        raise InvalidArgument.field(name, "is missing")
    return data
