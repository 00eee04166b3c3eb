"""What a verifier asks of a receipt beyond that it holds. Every member is enforced; there are no others."""

from __future__ import annotations

from dataclasses import dataclass

from afdp.errors import InvalidArgument
from afdp.formats.document import read_document
from afdp.formats.members import Members
from afdp.formats.note import NoteError, VerifierKey


@dataclass(frozen=True, slots=True)
class Policy:
    """A verifier's rules.

    Attributes:
        require_log: whether the receipt must be in a log that the trust root knows.
        require_timestamp: whether a trusted authority must have stamped the signature.
        require_independent_time: whether somebody outside of the notary must say when: an authority that is not the
            notary's, by a stamp on the signature or on a checkpoint over its entry, or one of `witnesses`.
        require_witnesses: how many of `witnesses` must have cosigned the checkpoint.
        witnesses: the keys of witnesses that count.
        tenant: the tenant that the evidence must belong to; empty: any.
        submitters: the subjects that may have submitted it; empty: any.
        event_types: the event types it may have; empty: any.
    """

    require_log: bool = True
    require_timestamp: bool = False
    require_independent_time: bool = False
    require_witnesses: int = 0
    witnesses: tuple[VerifierKey, ...] = ()
    tenant: str = ""
    submitters: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()


DEFAULT_POLICY = Policy()


def read_policy(data: bytes) -> Policy:
    """A policy from a YAML or JSON document.

    Raises:
        InvalidArgument: names the member that is unknown or wrong.
    """
    members = Members(read_document(data))
    witnesses = members.strings("witnesses") if members.has("witnesses") else ()
    policy = Policy(
        require_log=_optional_boolean(members, "require_log", True),
        require_timestamp=_optional_boolean(members, "require_timestamp", False),
        require_independent_time=_optional_boolean(members, "require_independent_time", False),
        require_witnesses=members.integer("require_witnesses") if members.has("require_witnesses") else 0,
        witnesses=tuple(_witness(text, members.path(f"witnesses[{at}]")) for at, text in enumerate(witnesses)),
        tenant=members.string("tenant") if members.has("tenant") else "",
        submitters=members.strings("submitters") if members.has("submitters") else (),
        event_types=members.strings("event_types") if members.has("event_types") else (),
    )
    members.end()
    if policy.require_witnesses > len(set(policy.witnesses)):
        members.refuse("require_witnesses", f"asks for more than the {len(set(policy.witnesses))} witnesses named")
    return policy


def _optional_boolean(members: Members, name: str, default: bool) -> bool:
    return members.boolean(name) if members.has(name) else default


def _witness(text: str, path: str) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except NoteError as error:
        raise InvalidArgument.field(path, str(error)) from error
    if not key.kind.cosigns:
        raise InvalidArgument.field(path, "is a log's key; a witness's key has a cosignature type")
    return key
