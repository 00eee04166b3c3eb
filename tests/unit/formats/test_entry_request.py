from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64encode
from typing import Any

import pytest
import rfc8785
from sigstore_models.rekor import v2 as rekor_v2

from afdp.errors import InvalidArgument
from afdp.formats.entry_request import EntryAlgorithm, EntryRequest, read_entry_request
from afdp.formats.hashedrekord import parse_entry_body
from tests.local_entries import request_of

DIGEST, SIGNATURE, KEY = b"\xfb\xff" * 16, b"\x30\xfe\xff", b"\x30\x59\xff"
RECORD = "hashedRekordRequestV002"
"""Where all members stand."""


def body(**changes: Any) -> bytes:
    request = request_of(DIGEST, SIGNATURE, KEY)
    return json.dumps({**request, **changes}).encode()


def changed(path: str, value: Any) -> bytes:
    """The request with another value at a path below the record; what is None is left out."""
    request = request_of(DIGEST, SIGNATURE, KEY)
    *parents, name = path.split(".")
    at = request[RECORD]
    for parent in parents:
        at = at[parent]
    at[name] = value
    if value is None:
        del at[name]
    return json.dumps(request).encode()


def refusal(text: bytes) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as refused:
        read_entry_request(text)
    return {fault.field: fault.message for fault in refused.value.fields}


def test_a_request_of_sigstores_own_models_is_read() -> None:
    model = rekor_v2.entry.CreateEntryRequest.from_json(body())

    read = read_entry_request(model.to_json().encode())

    assert read == EntryRequest(DIGEST, SIGNATURE, EntryAlgorithm.ECDSA_P256_SHA256, KEY)


@pytest.mark.parametrize("algorithm", EntryAlgorithm)
def test_the_entry_is_the_canonical_form_of_rekors(algorithm: EntryAlgorithm) -> None:
    request = EntryRequest(b"d" * algorithm.digest_size, SIGNATURE, algorithm, KEY)

    entry = request.entry()

    assert entry == rfc8785.dumps(json.loads(entry))
    record = json.loads(entry)["spec"]["hashedRekordV002"]
    assert record["data"]["algorithm"] == f"SHA2_{algorithm.digest_size * 8}"
    assert record["signature"]["verifier"] == {
        "keyDetails": str(algorithm),
        "publicKey": {
            "rawBytes": request_of(DIGEST, b"", KEY)[RECORD]["signature"]["verifier"]["publicKey"]["rawBytes"]
        },
    }


def test_the_entry_of_a_stranger_has_the_form_of_the_notarys_own() -> None:
    parsed = parse_entry_body(read_entry_request(body()).entry())

    assert (parsed.digest, parsed.signature, parsed.spki) == (DIGEST, SIGNATURE, KEY)


def test_a_certificate_stands_in_the_entry_in_the_place_of_the_key() -> None:
    verifier = {"x509Certificate": {"rawBytes": "MIIB"}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}

    read = read_entry_request(changed("signature.verifier", verifier))

    assert read.certified
    entry = read.entry()
    assert entry == rfc8785.dumps(json.loads(entry))
    assert json.loads(entry)["spec"]["hashedRekordV002"]["signature"]["verifier"] == verifier


def test_what_protojson_reads_is_read() -> None:
    plain = read_entry_request(body())
    snake = body()
    for camel, underscored in (
        ("hashedRekordRequestV002", "hashed_rekord_request_v002"),
        ("publicKey", "public_key"),
        ("rawBytes", "raw_bytes"),
        ("keyDetails", "key_details"),
    ):
        snake = snake.replace(camel.encode(), underscored.encode())

    assert read_entry_request(snake) == plain
    assert read_entry_request(changed("digest", urlsafe_b64encode(DIGEST).decode())) == plain
    assert read_entry_request(changed("digest", urlsafe_b64encode(DIGEST).decode().rstrip("="))) == plain
    assert read_entry_request(changed("signature.verifier.keyDetails", 5)) == plain
    assert read_entry_request(body(dsseRequestV002=None)) == plain


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("digest", None, "is missing"),
        ("digest", "", "must not be empty"),
        ("digest", "!!!!", "must be base64"),
        ("digest", "aaaaa", "must be base64"),
        ("digest", "YQ=", "must be base64"),
        ("digest", 5, "must be a string of base64"),
        ("digest", "YWJj", "must have 32 bytes for PKIX_ECDSA_P256_SHA_256, not 3"),
        ("signature", None, "is missing"),
        ("signature", [], "must be an object"),
        ("signature.content", None, "is missing"),
        ("signature.content", True, "must be a string of base64"),
        ("signature.verifier", None, "is missing"),
        ("signature.verifier", {"keyDetails": 5}, "must have either publicKey or x509Certificate"),
        ("signature.verifier.x509Certificate", {"rawBytes": "YQ=="}, "must have either publicKey or x509Certificate"),
        ("signature.verifier.publicKey", "MFkw", "must be an object"),
        ("signature.verifier.publicKey.rawBytes", None, "is missing"),
        ("signature.verifier.publicKey.hint", "a", "is unknown"),
        ("signature.verifier.keyDetails", None, "is missing"),
        ("signature.verifier.keyDetails", "PKIX_ED25519_PH", "must be one of PKIX_ECDSA_P256_SHA_256"),
        ("signature.verifier.keyDetails", "ecdsa", "must be one of PKIX_ECDSA_P256_SHA_256"),
        ("signature.verifier.keyDetails", 7, "must be one of PKIX_ECDSA_P256_SHA_256"),
        ("signature.verifier.keyDetails", 5.0, "must be one of PKIX_ECDSA_P256_SHA_256"),
        ("signature.verifier.keyDetails", True, "must be one of PKIX_ECDSA_P256_SHA_256"),
        ("signature.raw_bytes", "a", "is unknown"),
        ("colour", "red", "is unknown"),
    ],
)
def test_a_refusal_names_the_member(path: str, value: Any, says: str) -> None:
    [(field, message)] = refusal(changed(path, value)).items()

    holder = path.rpartition(".")[0]
    assert field in (f"{RECORD}.{path}".replace("raw_bytes", "rawBytes"), f"{RECORD}.{holder}", f"{RECORD}.{path}")
    assert message.startswith(says)


def test_a_long_name_is_named_by_its_beginning() -> None:
    [(field, message)] = refusal(changed("a" * 60_000, "b")).items()

    assert field.startswith(f'{RECORD}["aaaaaaaa')
    assert len(field) < 200
    assert message == "is unknown"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        (b"", "body", ""),
        (b"[]", "body", "must be an object"),
        (b"{}", RECORD, "is missing"),
        (b'{"hashedRekordRequestV002": null}', RECORD, "is missing"),
        (b'{"hashedrekord": {}}', RECORD, "is missing"),
        (b'{"dsseRequestV002": {}}', "dsseRequestV002", "is not taken, as by Rekor v2"),
        (b'{"hashedRekordRequestV002": {}, "hashed_rekord_request_v002": {}}', RECORD, "stands more than once"),
        (b'{"hashedRekordRequestV002": {}, "hashedRekordRequestV002": {}}', RECORD, ""),
        (b"\xff", "body", ""),
        (b"[" * 100_000, "body", ""),
    ],
)
def test_what_is_no_request_is_said_to_be_none(text: bytes, field: str, says: str) -> None:
    [(named, message)] = refusal(text).items()

    assert named == field
    assert message.startswith(says)


def test_an_entry_larger_than_a_log_takes_is_refused() -> None:
    content = b64decode(b"A" * 65_536)
    request = request_of(DIGEST, content, KEY)

    assert refusal(json.dumps(request).encode()) == {
        "body": "becomes an entry of over 65535 bytes, more than a log takes"
    }
