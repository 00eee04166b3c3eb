"""Key pairs in a token: how a version of a key stands there, and what is asked of it. All of it blocks.

A version is a pair of objects that the token made, its private half sensitive and not extractable:

    CKA_LABEL  afdp-hsm-key
    CKA_ID     3@2026-11-24T04:09:28Z#9f86d081      the version, when it began, and what tells two makers apart

`CKA_START_DATE` has days only; the ID is kept with the object by every token, copied with it by a token's own means of
backup, and seen by every replica. An ID without its last part is read too, for keys that were made at a ceremony with
a maker's own tools. Private halves of old versions may be destroyed; the public ones have to stay.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurve, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, exceptions

from afdp.errors import FailedPrecondition
from afdp.formats.timestamps import format_timestamp, parse_timestamp
from afdp.signer.keys import ED25519, P256, P384, KeySpec, KeyVersion, Purpose
from afdp.signer.pkcs11.sessions import TokenSession

_ID = re.compile(rb"([1-9][0-9]{0,8})@([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)(?:#[0-9a-f]+)?")
_SETTLED = timedelta(seconds=10)
_LOOKS = 5
_ELSEWHERE = {Purpose.LOG: "AFDP_LOG_KEYS=files", Purpose.TRUST: "AFDP_TRUST_KEYS=files"}


@dataclass(frozen=True, slots=True)
class _Kind:
    """An algorithm in the terms of PKCS #11."""

    name: str
    key_type: KeyType
    parameters: tuple[bytes, ...]  # CKA_EC_PARAMS: keys are made with the first, the others are read too
    make: Mechanism
    sign: Mechanism
    curve: EllipticCurve | None = None


_ED25519 = (
    bytes.fromhex("06032b6570"),  # as RFC 8410 has it
    b"\x13\x0cedwards25519",  # PKCS #11 v3.0, 2.3.10: by a curve's name
    bytes.fromhex("06092b06010401da470f01"),  # or by its first object identifier
)
_KINDS = {
    P256: _Kind(
        "P-256",
        KeyType.EC,
        (bytes.fromhex("06082a8648ce3d030107"),),
        Mechanism.EC_KEY_PAIR_GEN,
        Mechanism.ECDSA,
        SECP256R1(),
    ),
    P384: _Kind(
        "P-384", KeyType.EC, (bytes.fromhex("06052b81040022"),), Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA, SECP384R1()
    ),
    ED25519: _Kind("Ed25519", KeyType.EC_EDWARDS, _ED25519, Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA),
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A version of a key, as the token has it."""

    id: bytes
    number: int
    version: KeyVersion

    @property
    def settled(self) -> bool:
        """Whether its maker will not withdraw it any more."""
        return datetime.now(UTC) - self.version.valid_from >= _SETTLED


def find_pairs(session: TokenSession, spec: KeySpec) -> list[KeyPair]:
    """Every version of a key, oldest first.

    Raises:
        FailedPrecondition: something of this name is not a version of such a key.
    """
    of_number: dict[int, list[KeyPair]] = {}
    for pair in _pairs(session, spec):
        of_number.setdefault(pair.number, []).append(pair)
    return [pair for _, rivals in sorted(of_number.items()) for pair in _unrivalled(rivals)]


def make_pair(session: TokenSession, spec: KeySpec) -> KeyPair | None:
    """The next version of a key, made in the token; none if another replica made the same one at the same time.

    Each maker looks again after its pair is there, so at least one of them sees the other, and withdraws its own.
    """
    before = _pairs(session, spec)
    number = max((pair.number for pair in before), default=0) + 1
    began = max([datetime.now(UTC).replace(microsecond=0), *(pair.version.valid_from for pair in before)])
    key_id = f"{number}@{format_timestamp(began)}#{secrets.token_hex(4)}".encode()
    public, private = _generate(session, spec, key_id)
    if any(pair.number == number and pair.id != key_id for pair in _pairs(session, spec)):
        public.destroy()  # first, because a private half without its public one is no version
        private.destroy()
        return None
    return _pair(public, spec)


def sign_all(session: TokenSession, spec: KeySpec, key_id: bytes, inputs: Sequence[bytes]) -> list[bytes]:
    """Signatures with one version: ASN.1 DER over digests (ECDSA), or 64 bytes over messages (Ed25519).

    Raises:
        pkcs11.NoSuchKey: the token does not have its private half.
    """
    kind = _KINDS[spec.algorithm]
    private = session.objects.get(key_id)
    if private is None:
        private = session.objects[key_id] = _private(session, spec, key_id)
    with _named_mechanism(spec):
        raw = [private.sign(data, mechanism=kind.sign) for data in inputs]
    return raw if kind.curve is None else [_der(each) for each in raw]


def loose_keys(session: TokenSession, specs: Sequence[KeySpec]) -> list[str]:
    """The versions whose private half might leave the token, as `name:version`."""
    return [
        f"{spec.name}:{_parsed(each[Attribute.ID], spec)[0]}"
        for spec in specs
        for each in _objects(session, spec, ObjectClass.PRIVATE_KEY)
        if each[Attribute.EXTRACTABLE] or not each[Attribute.SENSITIVE]
    ]


def _pairs(session: TokenSession, spec: KeySpec) -> list[KeyPair]:
    for _ in range(_LOOKS):
        with suppress(exceptions.ObjectHandleInvalid):  # another replica withdrew one while it was looked at
            return [_pair(each, spec) for each in _objects(session, spec, ObjectClass.PUBLIC_KEY)]
    raise exceptions.ObjectHandleInvalid


def _unrivalled(rivals: Sequence[KeyPair]) -> Sequence[KeyPair]:
    """Of the pairs of one number the one that counts: while two are being made none, for one will be withdrawn."""
    if len(rivals) == 1:
        return rivals
    settled = [pair for pair in rivals if pair.settled]
    if len(settled) > 1:
        raise FailedPrecondition(f"the token has {settled[0].version.key_id} twice: destroy the one that never signed")
    return settled


def _generate(session: TokenSession, spec: KeySpec, key_id: bytes) -> tuple[Any, Any]:
    kind = _KINDS[spec.algorithm]
    with _named_mechanism(spec):
        if kind.sign not in session.raw.token.slot.get_mechanisms():
            raise exceptions.MechanismInvalid  # before a key is made that could never sign
        parameters = session.raw.create_domain_parameters(
            kind.key_type, {Attribute.EC_PARAMS: kind.parameters[0]}, local=True
        )
        made: tuple[Any, Any] = parameters.generate_keypair(
            id=key_id,
            label=spec.name,
            store=True,
            capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
            mechanism=kind.make,
            private_template={Attribute.EXTRACTABLE: False},  # private and sensitive by the package's own template
        )
    return made


def _private(session: TokenSession, spec: KeySpec, key_id: bytes) -> Any:
    found = [each for each in _objects(session, spec, ObjectClass.PRIVATE_KEY) if each[Attribute.ID] == key_id]
    if not found:
        raise exceptions.NoSuchKey
    return found[0]


def _objects(session: TokenSession, spec: KeySpec, kind: ObjectClass) -> list[Any]:
    return list(session.raw.get_objects({Attribute.CLASS: kind, Attribute.LABEL: spec.name}))


def _pair(public: Any, spec: KeySpec) -> KeyPair:
    kind = _KINDS[spec.algorithm]
    key_id = public[Attribute.ID]
    number, began = _parsed(key_id, spec)
    if public[Attribute.KEY_TYPE] != kind.key_type or public[Attribute.EC_PARAMS] not in kind.parameters:
        raise FailedPrecondition(f"the token's key {spec.name}:{number} is of another kind than {kind.name}")
    point = public[Attribute.EC_POINT]
    if not point:  # it was withdrawn since the last line: SoftHSM2 then says that it is empty
        raise exceptions.ObjectHandleInvalid
    version = KeyVersion(
        key_id=f"{spec.name}:{number}",
        purpose=spec.purpose,
        algorithm=spec.algorithm,
        spki=_spki(kind, point),
        valid_from=began,
        current=False,
    )
    return KeyPair(key_id, number, version)


def _parsed(key_id: bytes, spec: KeySpec) -> tuple[int, datetime]:
    matched = _ID.fullmatch(key_id)
    if matched is None:
        raise FailedPrecondition(f"the token has a key {spec.name} whose ID is not VERSION@TIME: {key_id.hex()}")
    return int(matched[1]), parse_timestamp(matched[2].decode())


def _spki(kind: _Kind, point: bytes) -> bytes:
    """A public key from CKA_EC_POINT: the point as a DER OCTET STRING, or, with some tokens, as it is."""
    size = 32 if kind.curve is None else 1 + 2 * ((kind.curve.key_size + 7) // 8)
    raw = point[-size:] if point[:-size] in (b"", bytes((4, size))) else b""
    try:
        key: Any = (
            Ed25519PublicKey.from_public_bytes(raw)
            if kind.curve is None
            else EllipticCurvePublicKey.from_encoded_point(kind.curve, raw)
        )
    except ValueError:
        raise FailedPrecondition(f"the token's public key is not a point of {kind.name}") from None
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


def _der(signature: bytes) -> bytes:
    half = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))


@contextmanager
def _named_mechanism(spec: KeySpec) -> Iterator[None]:
    try:
        yield
    except (exceptions.MechanismInvalid, exceptions.FunctionNotSupported):
        kind = _KINDS[spec.algorithm]
        instead = f": set {_ELSEWHERE[spec.purpose]}" if spec.purpose in _ELSEWHERE else ""
        message = f"the token does not have CKM_{kind.sign.name} for {kind.name}, which {spec.name} needs{instead}"
        raise FailedPrecondition(message) from None
