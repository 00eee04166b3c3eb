"""DSSE, the envelope around what is signed (DSSE protocol v1.0.2, envelope v1.0.0)."""

from __future__ import annotations

from dataclasses import dataclass

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.canonical import canonical_json, strict_json
from afdp.formats.encoding import b64, from_b64

IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the bytes that a DSSE signature is made over (DSSE protocol, "Signature")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """One signature: its bytes, and the key's name, which is a hint that nothing authenticates."""

    sig: bytes
    keyid: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type and at least one signature."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]

    @property
    def pae(self) -> bytes:
        """What the signatures are made over."""
        return pae(self.payload_type, self.payload)

    def to_object(self) -> dict[str, object]:
        """The envelope as a JSON object, standard base64, `keyid` left out where there is none."""
        return {
            "payload": b64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [
                {"sig": b64(signature.sig), **({"keyid": signature.keyid} if signature.keyid else {})}
                for signature in self.signatures
            ],
        }

    def to_json(self) -> bytes:
        """The envelope as canonical JSON."""
        return canonical_json(self.to_object())

    @classmethod
    def from_json(cls, data: bytes | str, *, path: str = "") -> Envelope:
        """Reads an envelope; see `from_object`."""
        return cls.from_object(strict_json(data), path=path)

    @classmethod
    def from_object(cls, value: object, *, path: str = "") -> Envelope:
        """Reads an envelope from a JSON object; base64 may be standard or URL-safe, as the protocol allows.

        Raises:
            InvalidArgument: a member is missing, unknown, of the wrong type, empty or not base64; `path` stands before
                its name.
        """
        dot = f"{path}." if path else ""
        members = _object(value, path or "body", required=("payload", "payloadType", "signatures"))
        kind, signatures = members["payloadType"], members["signatures"]
        if not isinstance(kind, str) or not kind:
            raise InvalidArgument.field(f"{dot}payloadType", "must be a non-empty string")
        if not isinstance(signatures, list) or not signatures:
            raise InvalidArgument.field(f"{dot}signatures", "must be a non-empty array")
        return cls(
            payload_type=kind,
            payload=_bytes(members["payload"], f"{dot}payload"),
            signatures=tuple(_signature(item, f"{dot}signatures[{i}]") for i, item in enumerate(signatures)),
        )


def _signature(value: object, path: str) -> EnvelopeSignature:
    members = _object(value, path, required=("sig",), optional=("keyid",))
    keyid = members.get("keyid", "")
    if not isinstance(keyid, str):
        raise InvalidArgument.field(f"{path}.keyid", "must be a string")
    sig = _bytes(members["sig"], f"{path}.sig")
    if not sig:
        raise InvalidArgument.field(f"{path}.sig", "must not be empty")
    return EnvelopeSignature(sig, keyid)


def _object(
    value: object, path: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidArgument.field(path, "must be an object")
    dot = "" if path == "body" else f"{path}."
    missing = [FieldViolation(f"{dot}{name}", "is missing") for name in required if name not in value]
    unknown = [FieldViolation(f"{dot}{name}", "is unknown") for name in value if name not in required + optional]
    if missing or unknown:
        raise InvalidArgument("the DSSE envelope is not valid", fields=missing + unknown)
    return value


def _bytes(value: object, path: str) -> bytes:
    if isinstance(value, str):
        standard = value.translate(_URL_SAFE) if "+" not in value and "/" not in value else value
        try:
            return from_b64(standard)
        except ValueError as error:
            raise InvalidArgument.field(path, "must be base64 with padding") from error
    raise InvalidArgument.field(path, "must be a string of base64")


_URL_SAFE = str.maketrans("-_", "+/")
