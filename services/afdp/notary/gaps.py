"""What a reconciler says of one record, or of one entry: the gaps, each with its kind and a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson

from afdp.errors import InvalidArgument
from afdp.formats.hashedrekord import parse_entry_body
from afdp.formats.timestamps import parse_timestamp
from afdp.messages.metadata import Draft, SearchTerms


class Kind(StrEnum):
    """What can be amiss. A crash leaves the first; all others were done by somebody, or by a disk."""

    UNLOGGED = "unlogged"
    """A record is signed and waits to be logged, for longer than that takes."""
    UNPLACED = "unplaced"
    """A record has no place in a log, and does not wait for one either."""
    UNERASED = "unerased"
    """A record's subject was erased, and the database does not know it: it was restored from a backup of before."""
    UNRECORDED = "unrecorded"
    """An entry that one of our keys has signed has no record."""
    INCOMPLETE = "incomplete"
    """A record has lost a part of itself."""
    ALTERED = "altered"
    """A record is not what was signed."""
    MISPLACED = "misplaced"
    """A record is not where it says that it is in a log."""
    DOUBLED = "doubled"
    """A record's entry is in one log twice."""
    STRAY = "stray"
    """A row beside the records contradicts them, or points to nothing."""
    UNREADABLE = "unreadable"
    """A log has lost entries, or does not reach as far as a record says."""


CLOSABLE = frozenset({Kind.UNLOGGED, Kind.UNPLACED, Kind.UNERASED})
"""What is closed by adding what is missing. Nothing that contradicts something else is ever written over."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing amiss.

    Attributes:
        subject: the receipt ID, or `ORIGIN entry N`.
        why: one sentence; names no content.
    """

    kind: Kind
    subject: str
    why: str
    closed: bool = False


def alterations(draft: Draft, evidence_fits: bool) -> Iterator[str]:
    """How a record differs from the statement that was signed, or its evidence from its hash."""
    if not evidence_fits:
        yield "its evidence does not have the SHA-256 on record"
    try:
        predicate, subjects = _parts(draft.statement)
        notary, evidence = predicate["notary"], predicate["evidence"]
        said = {
            "the receipt ID": str(notary["workflow_id"]).endswith(f"-{draft.receipt_id}"),
            "the tenant": notary["tenant"] == (draft.submitter.tenant if draft.submitter else ""),
            "the submitter": notary["submitter"] == _submitter(draft),
            "the time": parse_timestamp(notary["notarized_at"]) == draft.notarized_at,
            "the evidence hash": subjects[0]["digest"]["sha256"] == draft.evidence_hash.hex(),
            "what it is found by": _terms(evidence) == _terms_on_record(draft.terms),
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        yield "its statement cannot be read"
        return
    yield from (f"{name} on record is not that of the statement" for name, same in said.items() if not same)


def signed_by_us(body: bytes, spkis: Mapping[bytes, str]) -> bool:
    """Whether an entry names one of our evidence keys, whose signatures nobody else can make."""
    try:
        return parse_entry_body(body).spki in spkis
    except InvalidArgument:
        return False  # of strangers, by a certificate or in another form


def _parts(statement: bytes) -> tuple[Any, Any]:
    parsed = orjson.loads(statement)
    return parsed["predicate"], parsed["subject"]


def _submitter(draft: Draft) -> dict[str, str]:
    by = draft.submitter
    return {"issuer": by.issuer, "subject": by.subject, "method": by.method} if by else {}


_Terms = tuple[str, str, str, datetime | None, list[str]]


def _terms(evidence: Any) -> _Terms:
    actor = evidence["actor"]
    artifacts = [str(each["hash_sha256"]) for each in evidence["artifacts"]]
    moment = parse_timestamp(evidence["timestamp_utc"])
    return evidence["event_type"], actor["actor_type"], actor["id"], moment, artifacts


def _terms_on_record(terms: SearchTerms | None) -> _Terms:
    terms = terms or SearchTerms()
    hashes = [each.hex() for each in terms.artifact_hashes]
    return terms.event_type, terms.actor_type, terms.actor_id, terms.timestamp_utc, hashes
