from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.errors import InvalidArgument
from afdp.formats.hashedrekord import HashedRekord, SignatureAlgorithm, entry_body, key_hint, parse_entry_body

P256, P384 = SignatureAlgorithm.ECDSA_P256_SHA256, SignatureAlgorithm.ECDSA_P384_SHA384
PAE = b"DSSEv1 1 t 1 p"


def made(algorithm: SignatureAlgorithm) -> HashedRekord:
    curve, hash_ = (ec.SECP256R1(), hashes.SHA256()) if algorithm is P256 else (ec.SECP384R1(), hashes.SHA384())
    key = ec.generate_private_key(curve)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return HashedRekord(algorithm.digest(PAE), key.sign(PAE, ec.ECDSA(hash_)), spki, algorithm)


def body_of(entry: HashedRekord) -> bytes:
    return entry_body(entry.digest, entry.signature, entry.spki, entry.algorithm)


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def as_object(entry: HashedRekord, hash_algorithm: str, key_details: str) -> dict[str, Any]:
    return {
        "spec": {
            "hashedRekordV002": {
                "signature": {
                    "verifier": {"publicKey": {"rawBytes": b64(entry.spki)}, "keyDetails": key_details},
                    "content": b64(entry.signature),
                },
                "data": {"digest": b64(entry.digest), "algorithm": hash_algorithm},
            }
        },
        "kind": "hashedrekord",
        "apiVersion": "0.0.2",
    }


@pytest.mark.parametrize(
    ("algorithm", "hash_algorithm", "key_details"),
    [(P256, "SHA2_256", "PKIX_ECDSA_P256_SHA_256"), (P384, "SHA2_384", "PKIX_ECDSA_P384_SHA_384")],
)
def test_the_template_writes_the_canonical_form(
    algorithm: SignatureAlgorithm, hash_algorithm: str, key_details: str
) -> None:
    entry = made(algorithm)

    assert body_of(entry) == rfc8785.dumps(as_object(entry, hash_algorithm, key_details))
    assert parse_entry_body(body_of(entry)) == entry


def test_the_digest_is_that_of_the_algorithm() -> None:
    assert P256.digest(PAE) == hashlib.sha256(PAE).digest()
    assert P384.digest(PAE) == hashlib.sha384(PAE).digest()
    assert len(body_of(made(P256))) in range(470, 500)


@pytest.mark.parametrize(
    ("digest", "signature", "spki", "message"),
    [(bytes(48), b"s", b"k", "32 bytes"), (bytes(32), b"", b"k", "needs"), (bytes(32), b"s", b"", "needs")],
)
def test_an_entry_that_could_not_verify_is_not_written(
    digest: bytes, signature: bytes, spki: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        entry_body(digest, signature, spki, P256)


ENTRY = made(P256)
WRITTEN = body_of(ENTRY).decode()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("0.0.2", "0.0.1", "apiVersion"),
        ("hashedrekord", "dsse", "kind"),
        ("SHA2_256", "SHA2_384", "spec.hashedRekordV002.data.algorithm"),
        ("PKIX_ECDSA_P256_SHA_256", "PKIX_ECDSA_P384_SHA_384", "spec.hashedRekordV002.data.algorithm"),
        ("PKIX_ECDSA_P256_SHA_256", "PKIX_ED25519", "spec.hashedRekordV002.signature.verifier.keyDetails"),
        ('"digest":"', '"digest":"AAAA', "spec.hashedRekordV002.data.digest"),
        ('"content":"M', '"content":"*', "spec.hashedRekordV002.signature.content"),
        ('"rawBytes"', '"x"', "spec.hashedRekordV002.signature.verifier.publicKey.rawBytes"),
        ('"publicKey"', '"x509Certificate"', "spec.hashedRekordV002.signature.verifier.publicKey"),
        ('"data":{', '"data":{"canonicalization":"",', "spec.hashedRekordV002.data.canonicalization"),
        ('"kind"', ' "kind"', "body"),
        ('"kind":"hashedrekord"', '"kind":"hashedrekord","kind":"hashedrekord"', "kind"),
        ("}}}}}}", "}}}}}", "body"),
    ],
)
def test_an_entry_that_is_not_exact_is_refused_by_field(old: str, new: str, field: str) -> None:
    assert old in WRITTEN
    with pytest.raises(InvalidArgument) as caught:
        parse_entry_body(WRITTEN.replace(old, new, 1).encode())

    assert caught.value.fields[0].field == field


def test_members_in_another_order_are_refused() -> None:
    shuffled = json.dumps(dict(reversed(list(json.loads(WRITTEN).items()))), separators=(",", ":"))
    with pytest.raises(InvalidArgument, match="canonical"):
        parse_entry_body(shuffled.encode())


def test_the_hint_is_that_of_sigstore() -> None:
    assert key_hint(ENTRY.spki) == b64encode(hashlib.sha256(ENTRY.spki).digest()).decode()
