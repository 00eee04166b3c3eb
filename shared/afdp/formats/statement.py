"""The in-toto statement that is signed: the evidence, its artifacts, and what the notary knows about the submission.

The statement is written around the canonical evidence bytes, which are not encoded twice. As written here it is in
RFC 8785 form itself; nothing depends on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import orjson

from afdp.errors import InvalidArgument
from afdp.formats.canonical import canonical_json, strict_json
from afdp.formats.encoding import b64
from afdp.formats.evidence import RESERVED_ARTIFACT_NAME
from afdp.formats.members import Members
from afdp.formats.timestamps import format_timestamp

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
EVIDENCE_PREDICATE_TYPE = "https://afdp.dev/evidence/v1"
EVIDENCE_SUBJECT = RESERVED_ARTIFACT_NAME
"""The name of the first subject: the canonical evidence itself."""

DEFAULT_TENANT = "default"
SALT_SIZE = 32

_MAX_DEPTH = 48  # the evidence may be 32 levels deep and stands two levels deep


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who submitted, as authenticated: the identity's issuer, its subject, and how.

    How is `oidc`, `mtls`, `none`, or `service` where the notary itself submits.
    """

    issuer: str
    subject: str
    method: str


ANONYMOUS = Submitter(issuer="", subject="anonymous", method="none")
"""The submitter where authentication is off; the tenant is then `default`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A name and the SHA-256 of what it names, in lower-case hex."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that was read.

    Attributes:
        evidence: the evidence package as a JSON object.
        evidence_bytes: its canonical form, computed here.
        evidence_hash: the SHA-256 of that, in lower-case hex.
        subjects: as the statement has them; `check_subjects` compares them with the evidence.
        workflow_id: the notarisation, `simple-signing-…`.
        salt: 32 random bytes.
        approvals: JSON objects.
    """

    evidence: Mapping[str, object]
    evidence_bytes: bytes
    evidence_hash: str
    subjects: tuple[Subject, ...]
    tenant: str
    submitter: Submitter
    workflow_id: str
    notarized_at: datetime
    salt: bytes
    approvals: tuple[Mapping[str, object], ...]

    def artifacts(self) -> tuple[Subject, ...]:
        """The artifacts that the evidence names, in its order.

        Raises:
            InvalidArgument: the evidence's artifacts are not names and hashes.
        """
        path = "predicate.evidence"
        if "artifacts" not in self.evidence:
            raise InvalidArgument.field(f"{path}.artifacts", "is missing")
        items = Members(self.evidence, path).objects("artifacts")
        return tuple(Subject(item.string("name"), item.sha256_hex("hash_sha256")) for item in items)

    def check_subjects(self) -> None:
        """Checks that the subjects are the evidence and its artifacts, in order, and nothing else.

        Raises:
            InvalidArgument: names the first subject that is not.
        """
        expected = (Subject(EVIDENCE_SUBJECT, self.evidence_hash), *self.artifacts())
        if len(self.subjects) != len(expected):
            raise InvalidArgument.field(
                "subject", f"has {len(self.subjects)} items, the evidence asks for {len(expected)}"
            )
        for index, (subject, wanted) in enumerate(zip(self.subjects, expected, strict=True)):
            if subject != wanted:
                what = "the canonical evidence" if index == 0 else f"artifact {index - 1} of the evidence"
                raise InvalidArgument.field(f"subject[{index}]", f"is not {what}")


def statement_bytes(
    evidence: bytes,
    evidence_hash: str,
    artifacts: Sequence[tuple[str, str]],
    tenant: str,
    submitter: Submitter,
    workflow_id: str,
    notarized_at: datetime,
    salt: bytes,
    approvals: Sequence[Mapping[str, object]] = (),
) -> bytes:
    """The statement to be signed.

    Args:
        evidence: the canonical evidence (`afdp.formats.evidence`), spliced in as it is.
        evidence_hash: its SHA-256 in lower-case hex.
        artifacts: name and SHA-256 in lower-case hex of each, in the evidence's order.
        tenant: whom the evidence belongs to.
        submitter: who submitted it, as authenticated.
        workflow_id: the notarisation.
        notarized_at: the notary's clock, with a time zone.
        salt: 32 random bytes, new for each statement: without them the digest in the log could be guessed.
        approvals: JSON objects.

    Raises:
        ValueError: the salt has not 32 bytes, or the time no time zone.
    """
    if len(salt) != SALT_SIZE:
        raise ValueError(f"a salt has {SALT_SIZE} bytes, not {len(salt)}")
    subjects = [(EVIDENCE_SUBJECT, evidence_hash), *artifacts]
    notary = {
        "notarized_at": format_timestamp(notarized_at),
        "salt": b64(salt),
        "submitter": {"issuer": submitter.issuer, "method": submitter.method, "subject": submitter.subject},
        "tenant": tenant,
        "workflow_id": workflow_id,
    }
    return _TEMPLATE % (
        canonical_json(list(approvals)) if approvals else b"[]",
        evidence,
        orjson.dumps(notary),
        orjson.dumps([{"digest": {"sha256": digest}, "name": name} for name, digest in subjects]),
    )


def parse_statement(payload: bytes) -> Statement:
    """Reads a statement; whether its subjects are those of its evidence is for `check_subjects` to say.

    Raises:
        InvalidArgument: it is not an in-toto Statement v1 with an evidence predicate; names the member at fault.
    """
    # Canonical evidence may hold a large double, which prints as an integer literal.
    statement = Members(strict_json(payload, max_depth=_MAX_DEPTH, integers_as_doubles=True))
    statement.one_of("_type", (STATEMENT_TYPE,))
    statement.one_of("predicateType", (EVIDENCE_PREDICATE_TYPE,))
    predicate = statement.object("predicate")
    notary = predicate.object("notary")
    submitter = notary.object("submitter")
    evidence = _object(predicate, "evidence")
    canonical = canonical_json(evidence)
    parsed = Statement(
        evidence=evidence,
        evidence_bytes=canonical,
        evidence_hash=sha256(canonical).hexdigest(),
        subjects=tuple(map(_subject, statement.objects("subject"))),
        tenant=notary.string("tenant"),
        submitter=Submitter(
            issuer=submitter.string("issuer", empty=True),
            subject=submitter.string("subject"),
            method=submitter.string("method"),
        ),
        workflow_id=notary.string("workflow_id"),
        notarized_at=notary.time("notarized_at"),
        salt=notary.base64("salt", size=SALT_SIZE),
        approvals=_objects(predicate, "approvals"),
    )
    for each in (statement, predicate, notary, submitter):
        each.end()
    return parsed


_TEMPLATE = (
    b'{"_type":"%b","predicate":{"approvals":%%b,"evidence":%%b,"notary":%%b},"predicateType":"%b","subject":%%b}'
    % (STATEMENT_TYPE.encode(), EVIDENCE_PREDICATE_TYPE.encode())
)


def _subject(members: Members) -> Subject:
    digest = members.object("digest")
    subject = Subject(members.string("name"), digest.sha256_hex("sha256"))
    digest.end()
    members.end()
    return subject


def _object(members: Members, name: str) -> dict[str, object]:
    value = members.take(name)
    if not isinstance(value, dict):
        members.refuse(name, "must be an object")
    return value


def _objects(members: Members, name: str) -> tuple[dict[str, object], ...]:
    items: list[dict[str, object]] = []
    for index, item in enumerate(members.array(name)):
        if not isinstance(item, dict):
            members.refuse(f"{name}[{index}]", "must be an object")
        items.append(item)
    return tuple(items)
