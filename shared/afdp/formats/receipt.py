"""The receipt as JSON: the message `afdp.notary.v1.NotarizationReceipt`, as the REST API prints it.

What proves anything is in the bundle. The other members repeat parts of it under the names that clients have always
read; a verifier compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from afdp.errors import InvalidArgument
from afdp.formats.anchor import Anchor
from afdp.formats.bundle import Bundle
from afdp.formats.canonical import strict_json
from afdp.formats.encoding import from_b64
from afdp.formats.members import Members

STATES = ("signed", "logged", "witnessed")
"""How far a receipt has come: signed and durably queued; in the log with a proof; its checkpoint cosigned."""

FIELDS = (
    "evidence_package_hash",
    "rekor_log_id",
    "rekor_server_url",
    "signature_b64",
    "public_key_b64",
    "integrated_time",
    "log_index",
    "receipt_id",
    "state",
    "key_id",
    "bundle",
    "more_bundles",
    "anchors",
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt. Reading one proves nothing: `afdp.verify` does.

    Attributes:
        evidence_package_hash: SHA-256 of the canonical evidence, 64 hex digits.
        rekor_log_id: the entry's Merkle leaf hash, 64 hex digits.
        rekor_server_url: the log's base URL.
        signature_b64: the DSSE signature, DER, in base64.
        public_key_b64: SubjectPublicKeyInfo, DER, in base64.
        integrated_time: Unix seconds of the trusted timestamp, or of `notarized_at` without one: no proof.
        log_index: zero-based place in the log.
        receipt_id: UUIDv7.
        state: one of STATES.
        key_id: `name:version` of the key.
        bundle: the Sigstore bundle.
        more_bundles: those of further logs.
        anchors: checkpoints over the entry that authorities outside of the notary have stamped.
    """

    evidence_package_hash: str
    rekor_log_id: str
    rekor_server_url: str
    signature_b64: str
    public_key_b64: str
    integrated_time: int
    log_index: int
    receipt_id: str
    state: str
    key_id: str
    bundle: Bundle
    more_bundles: tuple[Bundle, ...] = ()
    anchors: tuple[Anchor, ...] = ()

    @property
    def signature(self) -> bytes:
        """The signature, DER."""
        return from_b64(self.signature_b64)

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return from_b64(self.public_key_b64)

    def to_object(self) -> dict[str, object]:
        """The members in the order of the message; the bundles as objects."""
        members: dict[str, object] = {name: getattr(self, name) for name in FIELDS[:-3]}
        members["bundle"] = orjson.loads(self.bundle.to_json())
        members["more_bundles"] = [orjson.loads(each.to_json()) for each in self.more_bundles]
        members["anchors"] = [each.to_object() for each in self.anchors]
        return members

    def to_json(self) -> bytes:
        """The receipt as JSON, indented, with a line end: a file for people and `afdp verify`."""
        return orjson.dumps(self.to_object(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_json(cls, data: bytes | str) -> Receipt:
        """Reads a receipt; see `from_object`."""
        return cls.from_object(strict_json(data))

    @classmethod
    def from_object(cls, value: object, *, path: str = "") -> Receipt:
        """Reads a receipt from a JSON object, strictly.

        Raises:
            InvalidArgument: names the member that is missing, unknown or of another form.
        """
        _refuse_other_documents(value, path)
        members = Members(value, path)
        receipt = cls(
            evidence_package_hash=members.sha256_hex("evidence_package_hash"),
            rekor_log_id=members.sha256_hex("rekor_log_id"),
            rekor_server_url=members.string("rekor_server_url", empty=True),
            signature_b64=members.base64_text("signature_b64"),
            public_key_b64=members.base64_text("public_key_b64"),
            integrated_time=members.integer("integrated_time"),
            log_index=members.integer("log_index"),
            receipt_id=members.string("receipt_id"),
            state=members.one_of("state", STATES),
            key_id=members.string("key_id"),
            bundle=Bundle.from_object(members.take("bundle"), path=members.path("bundle")),
            more_bundles=_more_bundles(members),
            anchors=_anchors(members),
        )
        members.end()
        return receipt


def _more_bundles(members: Members) -> tuple[Bundle, ...]:
    if not members.has("more_bundles"):
        members.skip_null("more_bundles")
        return ()
    return tuple(
        Bundle.from_object(each, path=members.path(f"more_bundles[{at}]"))
        for at, each in enumerate(members.array("more_bundles"))
    )


def _anchors(members: Members) -> tuple[Anchor, ...]:
    if not members.has("anchors"):
        members.skip_null("anchors")
        return ()
    return tuple(
        Anchor.from_object(each, path=members.path(f"anchors[{at}]"))
        for at, each in enumerate(members.array("anchors"))
    )


def _refuse_other_documents(value: object, path: str) -> None:
    """Says what to do with what people most often take for a receipt."""
    where = path or "body"
    if not isinstance(value, dict) or "bundle" in value:
        return
    if "mediaType" in value and "verificationMaterial" in value:
        raise InvalidArgument.field(
            where, "is a bare Sigstore bundle, not a receipt; a receipt has it as its member `bundle` (`afdp sign -o`)"
        )
    if "receipt" in value and "workflow_id" in value:
        raise InvalidArgument.field(
            where, "is an answer of the API, not a receipt; the receipt is its member `receipt`"
        )
    if "payloadType" in value and "signatures" in value:
        raise InvalidArgument.field(where, "is a DSSE envelope, not a receipt; a receipt holds it in its bundle")
