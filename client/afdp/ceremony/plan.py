"""What shall be signed next: wishes and what waits at the notary, put against what was signed, in words for the signer.

Nothing here has an effect: the words come first, the keys and the signatures only after somebody has agreed to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from afdp.ceremony.notary import Notary
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.certificates import name_parts, read_certificate, to_pem
from afdp.formats.encoding import from_b64
from afdp.formats.repository import (
    INDEPENDENT,
    REVOCATIONS,
    ROOT,
    TARGETS,
    KeyRevocation,
    independent_pem,
    read_independent,
    revocations_json,
)
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import LOG_VKEY, Revocation, TrustRoot
from afdp.formats.trust_changes import is_as_strict, stricter
from afdp.trust.metadata import tuf_key
from afdp.trust.offline import Offline

OFFLINE_ROLES = (ROOT, TARGETS)
ROOT_DAYS, TARGETS_DAYS = 365, 90


@dataclass(frozen=True, slots=True)
class WishedRevocation:
    """A key version to revoke: its ID or its hint, why, and since when somebody else may have used it."""

    key: str
    reason: str
    compromised_since: datetime | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the signer asks for beyond what waits at the notary.

    Attributes:
        online_key: delegate to the signer's trust key as it is now.
        rotate: the offline roles whose keys are replaced.
        root_days: None: root is signed again only where something else asks for it.
    """

    revoke: tuple[WishedRevocation, ...] = ()
    online_key: bool = False
    rotate: tuple[str, ...] = ()
    root_days: int | None = None
    targets_days: int = TARGETS_DAYS


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be signed.

    Attributes:
        changes: what it changes, each in a few words.
        contents: the files that `targets` speaks of, by path.
        online_key: the raw public key that signs online from now on, where it is another.
        rotate: the offline roles whose keys are replaced.
        root_expires: None where root stays as it is.
    """

    changes: tuple[str, ...]
    contents: Mapping[str, bytes]
    targets_expires: datetime
    root_expires: datetime | None = None
    online_key: bytes | None = None
    rotate: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """Contents as they are put together."""

    root: TrustRoot
    revocations: dict[str, KeyRevocation] = field(default_factory=dict)
    vkeys: list[str] = field(default_factory=list)
    independent: list[bytes] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def first_plan(notary: Notary, root_days: int, targets_days: int) -> Plan:
    """What a new repository begins with: all that the notary says now."""
    draft = _Draft(_root(notary))
    _add_pending(draft)
    return Plan(
        changes=tuple(draft.changes),
        contents=_contents(draft),
        targets_expires=_in(targets_days),
        root_expires=_in(root_days),
        online_key=notary.online_key,
    )


def next_plan(offline: Offline, notary: Notary, wishes: Wishes) -> Plan:
    """What follows what was signed.

    Raises:
        FailedPrecondition: the signer's trust key is another, and nobody wishes to delegate to it.
        InvalidArgument: a key that shall be revoked is not known, or there is no reason for it.
    """
    vkeys = offline.contents[LOG_VKEY].decode().splitlines()
    draft = _Draft(
        _root(notary),
        {each.hint: each for each in offline.revocations},
        vkeys,
        sorted(offline.independent),
    )
    _add_pending(draft)
    for wish in wishes.revoke:
        _revoke(draft, wish, notary.hints)
    online_key = _online_key(draft, offline, notary, wishes)
    for role in wishes.rotate:
        draft.changes.append(f"replaces the {len(offline.root.roles[role].keyids)} key(s) of {role} by fresh ones")
    new_root = bool(wishes.rotate or online_key or wishes.root_days)
    expires = _in(wishes.targets_days)
    draft.changes.append(f"targets {offline.targets.version + 1} is valid until {expires:%Y-%m-%d}")
    root_expires = _in(wishes.root_days or ROOT_DAYS) if new_root else None
    if root_expires is not None:
        draft.changes.append(f"root {offline.root.version + 1} is valid until {root_expires:%Y-%m-%d}")
    return Plan(tuple(draft.changes), _contents(draft), expires, root_expires, online_key, wishes.rotate)


def _root(notary: Notary) -> TrustRoot:
    try:
        return notary.root
    except InvalidArgument as error:
        raise FailedPrecondition(f"the notary's trust root cannot be used: {error}") from error


def _in(days: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)


# --- contents ---------------------------------------------------------------------------------------------------------


def _add_pending(draft: _Draft) -> None:
    """What the notary says and nobody has signed yet."""
    for key in draft.root.keys:
        if key.revoked is not None:
            _add(draft, KeyRevocation(key.key_id, key.hint, key.revoked))
    for log in draft.root.logs:
        if str(log.vkey) not in draft.vkeys:
            draft.vkeys.append(str(log.vkey))
            draft.changes.append(f"trusts the log {log.vkey}")
    for certificate in sorted(read_independent(independent_pem(draft.root)) - set(draft.independent)):
        draft.independent.append(certificate)
        draft.changes.append(f"trusts the independent authority of {_subject(certificate)}")


def _revoke(draft: _Draft, wish: WishedRevocation, hints: Mapping[str, str]) -> None:
    hint = hints.get(wish.key, wish.key if _is_hint(wish.key) else "")
    if not hint:
        raise InvalidArgument.field("--revoke", f"{wish.key} is no key version of this notary; see `afdp keys list`")
    known = draft.revocations.get(hint)
    reason = wish.reason or (known.revocation.reason if known else "")
    if not reason:
        raise InvalidArgument.field("--reason", f"must say why {wish.key} is revoked")
    at = known.revocation.at if known else datetime.now(UTC).replace(microsecond=0)
    names = {each: name for name, each in hints.items()}
    _add(draft, KeyRevocation(names.get(hint, hint), hint, Revocation(at, wish.compromised_since, reason)))


def _add(draft: _Draft, wanted: KeyRevocation) -> None:
    known = draft.revocations.get(wanted.hint)
    if known is not None and is_as_strict(known.revocation, wanted.revocation):
        return
    revocation = stricter(wanted.revocation, known.revocation if known else None) or wanted.revocation
    draft.revocations[wanted.hint] = KeyRevocation(wanted.key_id, wanted.hint, revocation)
    since = revocation.compromised_since
    what = f"compromised since {format_timestamp(since)}" if since else "retired"
    draft.changes.append(f"revokes {wanted.key_id}, {what}: {revocation.reason}")


def _contents(draft: _Draft) -> dict[str, bytes]:
    contents = {
        REVOCATIONS: revocations_json(draft.revocations.values()),
        LOG_VKEY: "".join(f"{vkey}\n" for vkey in draft.vkeys).encode(),
    }
    if draft.independent:
        contents[INDEPENDENT] = to_pem(draft.independent).encode()
    return contents


def _online_key(draft: _Draft, offline: Offline, notary: Notary, wishes: Wishes) -> bytes | None:
    found = tuf_key(notary.online_key).keyid
    if found == offline.online_key:
        return None
    if not wishes.online_key:
        raise FailedPrecondition(
            f"the signer's trust key is {found[:16]}…, and the repository delegates to {offline.online_key[:16]}…: "
            "where its operators have rotated it, delegate to it with --online-key"
        )
    draft.changes.append(
        f"lets the signer's trust key {found[:16]}… sign online, and {offline.online_key[:16]}… no more"
    )
    return notary.online_key


def _is_hint(text: str) -> bool:
    try:
        return len(from_b64(text)) == 32
    except ValueError:
        return False


def _subject(certificate: bytes) -> str:
    parts: Sequence[str] = list(name_parts(read_certificate(certificate).subject).values())
    return ", ".join(parts) or "no name"
