"""What may follow a trust root: versions are added, validity ends, revocations grow stricter. Nothing is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.hashedrekord import key_hint
from afdp.formats.repository import KeyRevocation
from afdp.formats.trust import EvidenceKey, Revocation, TrustRoot

Named = TypeVar("Named")


def taken_back(old: TrustRoot, new: TrustRoot, distrusted: Iterable[KeyRevocation] = ()) -> Iterator[str]:
    """What the old trust root says and the new one does not say any more, each in a few words.

    Args:
        old: what was believed.
        new: what shall be believed.
        distrusted: revocations of the offline role: a key that was never to be trusted may disappear.
    """
    since = {each.hint: each.revocation.compromised_since for each in distrusted}
    yield from _lost_logs(old, new)
    yield from _lost_keys(old, new, since)
    yield from _lost_authorities(old, new, since)


def added(old: TrustRoot, new: TrustRoot) -> TrustRoot:
    """The old trust root with what the new one adds to it; what the new one would take back stands as it was."""
    known = {key.hint for key in old.keys}
    keys = [_grown(key, new) for key in old.keys] + [key for key in new.keys if key.hint not in known]
    logs = [*old.logs, *(log for log in new.logs if log.log_id not in old.log_of_id)]
    authorities = {each.certificates: each for each in new.timestamp_authorities}
    ended = [_ended(each, authorities.pop(each.certificates, each)) for each in old.timestamp_authorities]
    return replace(
        new,
        keys=_first_of_each(keys, lambda key: key.key_id),
        logs=tuple(logs),
        timestamp_authorities=(*ended, *authorities.values()),
    )


def is_as_strict(new: Revocation | None, old: Revocation | None) -> bool:
    """Whether a revocation distrusts all that another one does."""
    if old is None:
        return True
    return new is not None and new.at <= old.at and _is_not_later(new.compromised_since, old.compromised_since)


def stricter(one: Revocation | None, other: Revocation | None) -> Revocation | None:
    """What distrusts all that either of two revocations does, with the reason of the one that says more."""
    if one is None or other is None:
        return one or other
    says_more = one if _is_not_later(one.compromised_since, other.compromised_since) else other
    return Revocation(min(one.at, other.at), says_more.compromised_since, says_more.reason)


def with_revocations(root: TrustRoot, revocations: Iterable[KeyRevocation]) -> TrustRoot:
    """A trust root whose keys are revoked as it says itself, and as these revocations say."""
    said = {each.hint: each.revocation for each in revocations}
    keys = tuple(replace(key, revoked=stricter(key.revoked, said.get(key.hint))) for key in root.keys)
    return replace(root, keys=keys)


def without_revocations(root: TrustRoot) -> TrustRoot:
    """A trust root in which no key is revoked."""
    return replace(root, keys=tuple(replace(key, revoked=None) for key in root.keys))


# --- what is lost -----------------------------------------------------------------------------------------------------


def _lost_logs(old: TrustRoot, new: TrustRoot) -> Iterator[str]:
    for log in old.logs:
        now = new.log_of_id.get(log.log_id)
        if now is None:
            yield f"the log {log.vkey}"
        elif now.valid_from != log.valid_from:
            yield f"since when the log {log.origin} is valid"


def _lost_keys(old: TrustRoot, new: TrustRoot, since: Mapping[str, datetime | None]) -> Iterator[str]:
    for key in old.keys:
        found = new.key_of_hint.get(key.hint)
        if found is not None:
            yield from _key_changes(key, found[0])
        elif not _is_not_later(since.get(key.hint), key.valid_from):
            yield f"the key {key.key_id}"


def _key_changes(old: EvidenceKey, new: EvidenceKey) -> Iterator[str]:
    if new.key_id != old.key_id:
        yield f"the name of the key {old.key_id}"
    if new.algorithm != old.algorithm:
        yield f"the algorithm of the key {old.key_id}"
    if new.valid_from != old.valid_from:
        yield f"since when the key {old.key_id} is valid"
    if not _is_not_later(new.valid_until, old.valid_until):
        yield f"until when the key {old.key_id} was valid"
    if not set(new.tenants) >= set(old.tenants):
        yield f"tenants of the key {old.key_id}"
    if not is_as_strict(new.revoked, old.revoked):
        yield f"the revocation of {old.key_id}"


def _lost_authorities(old: TrustRoot, new: TrustRoot, since: Mapping[str, datetime | None]) -> Iterator[str]:
    found = {each.certificates: each for each in new.timestamp_authorities}
    for authority in old.timestamp_authorities:
        now = found.get(authority.certificates)
        if now is not None:
            yield from _authority_changes(authority, now)
        elif not _is_not_later(since.get(_hint(authority)), authority.valid_from):
            yield f"a certificate of the authority {authority.uri}"


def _authority_changes(old: TimestampAuthority, new: TimestampAuthority) -> Iterator[str]:
    if new.uri != old.uri:
        yield f"the address of the authority {old.uri}"
    if new.valid_from != old.valid_from:
        yield f"since when a certificate of the authority {old.uri} is valid"
    if not _is_not_later(new.valid_until, old.valid_until):
        yield f"until when a certificate of the authority {old.uri} was valid"


def _hint(authority: TimestampAuthority) -> str:
    return key_hint(authority.chain.authority.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _is_not_later(new: datetime | None, old: datetime | None) -> bool:
    """None is never."""
    return old is None or (new is not None and new <= old)


# --- what is added ----------------------------------------------------------------------------------------------------


def _grown(old: EvidenceKey, root: TrustRoot) -> EvidenceKey:
    new, _ = root.key_of_hint.get(old.hint, (old, None))
    return replace(
        old,
        valid_until=_earlier(old.valid_until, new.valid_until),
        tenants=tuple(dict.fromkeys((*old.tenants, *new.tenants))),
        revoked=stricter(old.revoked, new.revoked),
    )


def _ended(old: TimestampAuthority, new: TimestampAuthority) -> TimestampAuthority:
    return replace(old, valid_until=_earlier(old.valid_until, new.valid_until))


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((end for end in (one, other) if end is not None), default=None)


def _first_of_each(items: Iterable[Named], name: Callable[[Named], str]) -> tuple[Named, ...]:
    """A name stands for one thing: a later one under a name that is taken is left out."""
    found: dict[str, Named] = {}
    for item in items:
        found.setdefault(name(item), item)
    return tuple(found.values())
