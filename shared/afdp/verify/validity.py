"""Whether a signature counts, by what became of its key: the key's interval, its revocation, and who says when.

A key that was compromised signs whatever its thief wants, also with a false time: an authority that the notary runs
itself may have gone the same way. From then on only a witness or an authority outside of the notary is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import EvidenceKey, Revocation
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import Stamp

# What a time is off by at most where its authority does not say: genTime may have whole seconds only (RFC 3161, 2.4.2).
UNSAID_ACCURACY = timedelta(seconds=1)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z

_ANCHORS_COME = "get the receipt anew from the notary: a later one may have an anchor that does"


@dataclass(frozen=True, slots=True)
class Testimony:
    """The word of somebody outside of the notary that a signature was there.

    Attributes:
        by: who says so.
        latest: when at the latest, whatever the clock was off by.
    """

    by: str
    latest: datetime

    @classmethod
    def of(cls, stamp: Stamp) -> Testimony:
        """That of an authority."""
        return cls(stamp.authority.name, _latest(stamp))

    @classmethod
    def at(cls, witness: str, seconds: int) -> Testimony:
        """That of a witness; the time in seconds since the epoch, 2^63−1 at most."""
        return cls(witness, datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC))


def _latest(stamp: Stamp) -> datetime:
    accuracy = UNSAID_ACCURACY if stamp.accuracy is None else stamp.accuracy
    try:
        return stamp.time + accuracy
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def require_valid(
    key: EvidenceKey, stamp: Stamp | None, testimonies: Callable[[], Sequence[Testimony]], now: datetime
) -> str:
    """Checks that a key was valid when it signed; gives what is to be said of its revocation.

    Args:
        key: with its interval and revocation.
        stamp: over the signature, verified; None where there is none.
        testimonies: asked for only where the stamp is not enough.
        now: the time of verification.

    Raises:
        NotVerifiedError: it was not, or nothing proves that it was.
    """
    _require_begun(key, stamp, now)
    revoked = key.revoked
    if revoked is not None and revoked.compromised_since is not None:
        testimony = _before(revoked.compromised_since, testimonies(), key, revoked)
        if key.valid_until is not None:
            _require_not_ended(key, key.valid_until, stamp.time if stamp else testimony.latest)
        since = format_timestamp(revoked.compromised_since)
        return f"compromised since {since}; {testimony.by} proves that it signed before"
    if key.valid_until is None and revoked is None:
        return "not revoked"
    time = stamp.time if stamp else _earliest(testimonies())
    if revoked is not None:
        _require_not_retired(key, revoked, time)
    if key.valid_until is not None:
        _require_not_ended(key, key.valid_until, time)
    return f"revoked at {format_timestamp(revoked.at)}, after it signed" if revoked else "not revoked"


def _require_begun(key: EvidenceKey, stamp: Stamp | None, now: datetime) -> None:
    latest = now if stamp is None else _latest(stamp)
    if latest < key.valid_from:
        when = f", and the timestamp is of {format_timestamp(stamp.time)}" if stamp else ""
        raise NotVerifiedError(f"{key.key_id} is valid only since {format_timestamp(key.valid_from)}{when}")


def _require_not_ended(key: EvidenceKey, end: datetime, time: datetime | None) -> None:
    if time is None or time >= end:
        raise NotVerifiedError(f"{key.key_id} was valid until {format_timestamp(end)}, and {_unproven(time)}")


def _require_not_retired(key: EvidenceKey, revoked: Revocation, time: datetime | None) -> None:
    if time is None or time >= revoked.at:
        raise NotVerifiedError(
            f"{key.key_id} was revoked at {format_timestamp(revoked.at)}, and {_unproven(time)}", _reason(revoked)
        )


def _unproven(time: datetime | None) -> str:
    if time is None:
        return "no verified timestamp proves that it signed before"
    return f"what it signed is known only since {format_timestamp(time)}"


def _before(
    compromised: datetime, testimonies: Sequence[Testimony], key: EvidenceKey, revoked: Revocation
) -> Testimony:
    early = min(testimonies, key=lambda each: each.latest, default=None)
    if early is not None and early.latest < compromised:
        return early
    said = f"the earliest word is that of {early.by}, {format_timestamp(early.latest)}" if early else "there is no word"
    raise NotVerifiedError(
        f"{key.key_id} was revoked at {format_timestamp(revoked.at)}, compromised since "
        f"{format_timestamp(compromised)}, and nobody outside of the notary proves that it signed before: {said}",
        "; ".join(filter(None, (_reason(revoked), "" if early else _ANCHORS_COME))),
    )


def _earliest(testimonies: Sequence[Testimony]) -> datetime | None:
    return min((each.latest for each in testimonies), default=None)


def _reason(revoked: Revocation) -> str:
    return f"reason given: {revoked.reason}" if revoked.reason else ""
