from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from sigstore_models.bundle.v1 import Bundle as SigstoreBundle

from afdp.errors import InvalidArgument
from afdp.formats.bundle import Bundle, LogEntry, bundle_json
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope, EnvelopeSignature
from afdp.formats.hashedrekord import key_hint

HINT = key_hint(b"a key")
ENTRY = LogEntry(
    log_index=5,
    log_id=bytes(range(32)),
    body=b'{"apiVersion":"0.0.2"}',
    tree_size=7,
    root_hash=b"r" * 32,
    hashes=(b"1" * 32, b"2" * 32),
    checkpoint="log.example\n7\ncnJy\n\n— log.example AAAA\n",
    proof_index=5,
)


def made(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {"hint": HINT, "payload": b'{"_type":1}', "signature": b"sig", "entry": ENTRY, **changes}
    return json.loads(bundle_json(**parts))


def test_a_bundle_that_was_made_reads_back_as_it_was() -> None:
    bundle = Bundle.from_json(bundle_json(hint=HINT, payload=b"{}", signature=b"sig", entry=ENTRY, timestamps=[b"tsr"]))

    assert bundle == Bundle(HINT, Envelope(IN_TOTO_PAYLOAD_TYPE, b"{}", (EnvelopeSignature(b"sig"),)), ENTRY, (b"tsr",))


def test_a_bundle_is_written_with_the_same_bytes_as_it_was_made() -> None:
    data = bundle_json(hint=HINT, payload=b"{}", signature=b"sig", entry=ENTRY, timestamps=[b"tsr"])

    assert Bundle.from_json(data).to_json() == data


def test_a_bundle_that_is_not_in_a_log_has_no_entry() -> None:
    bundle = made(entry=None)

    assert bundle["verificationMaterial"]["tlogEntries"] == []
    assert Bundle.from_object(bundle).entry is None


def test_the_proof_of_a_tree_of_one_has_an_explicit_empty_list() -> None:
    alone = LogEntry(0, bytes(32), b"{}", 1, bytes(32), (), "note")

    entry = made(entry=alone)["verificationMaterial"]["tlogEntries"][0]

    assert entry["inclusionProof"]["hashes"] == []
    assert entry["logIndex"] == "0"
    assert entry["integratedTime"] == "0"
    assert "inclusionPromise" not in entry


def test_sigstores_own_model_reads_the_bundle() -> None:
    data = bundle_json(hint=HINT, payload=b"{}", signature=b"sig", entry=ENTRY)

    read = SigstoreBundle.from_json(data)

    assert read.verification_material.public_key is not None
    assert read.verification_material.public_key.hint == HINT
    assert read.verification_material.tlog_entries[0].canonicalized_body == ENTRY.body
    assert read.verification_material.tlog_entries[0].kind_version.version == "0.0.2"
    assert read.dsse_envelope is not None
    assert read.dsse_envelope.payload == b"{}"


def at(bundle: dict[str, Any], *path: str | int) -> Any:
    for step in path:
        bundle = bundle[step]  # type: ignore[index]
    return bundle


def setting(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    return lambda bundle: at(bundle, *path[:-1]).__setitem__(path[-1], to)


def removing(*path: Any) -> Callable[[dict[str, Any]], None]:
    return lambda bundle: at(bundle, *path[:-1]).__delitem__(path[-1])


MATERIAL = "verificationMaterial"
FIRST = (MATERIAL, "tlogEntries", 0)
ENTRY_PATH = "verificationMaterial.tlogEntries[0]"
STAMPS = (MATERIAL, "timestampVerificationData", "rfc3161Timestamps")
STAMPS_PATH = ".".join(STAMPS)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (setting("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.2"), "mediaType"),
        (removing("dsseEnvelope"), "dsseEnvelope"),
        (setting("messageSignature", to={}), "messageSignature"),
        (setting(MATERIAL, "certificate", to={"rawBytes": "AAAA"}), "verificationMaterial.certificate"),
        (removing(MATERIAL, "publicKey"), "verificationMaterial.publicKey"),
        (setting(MATERIAL, "publicKey", "hint", to=""), "verificationMaterial.publicKey.hint"),
        (lambda b: at(b, MATERIAL, "tlogEntries").append(copy.deepcopy(at(b, *FIRST))), f"{MATERIAL}.tlogEntries"),
        (setting(*FIRST, "logIndex", to=5), f"{ENTRY_PATH}.logIndex"),
        (setting(*FIRST, "logIndex", to="05"), f"{ENTRY_PATH}.logIndex"),
        (setting(*FIRST, "logIndex", to="-5"), f"{ENTRY_PATH}.logIndex"),
        (setting(*FIRST, "logIndex", to="18446744073709551616"), f"{ENTRY_PATH}.logIndex"),
        (setting(*FIRST, "inclusionPromise", to={"signedEntryTimestamp": "AAAA"}), f"{ENTRY_PATH}.inclusionPromise"),
        (setting(*FIRST, "logId", "keyId", to="AAAA"), f"{ENTRY_PATH}.logId.keyId"),
        (removing(*FIRST, "inclusionProof", "hashes"), f"{ENTRY_PATH}.inclusionProof.hashes"),
        (setting(*FIRST, "inclusionProof", "hashes", 1, to="AAAA"), f"{ENTRY_PATH}.inclusionProof.hashes[1]"),
        (setting(*FIRST, "inclusionProof", "rootHash", to="AA=="), f"{ENTRY_PATH}.inclusionProof.rootHash"),
        (setting(*FIRST, "inclusionProof", "checkpoint", to={}), f"{ENTRY_PATH}.inclusionProof.checkpoint.envelope"),
        (setting(*FIRST, "canonicalizedBody", to="e30"), f"{ENTRY_PATH}.canonicalizedBody"),
        (setting(*FIRST, "more", to=1), f"{ENTRY_PATH}.more"),
        (setting(*STAMPS, to={}), f"{STAMPS_PATH}"),
        (setting(*STAMPS, to=["dHNy"]), f"{STAMPS_PATH}[0]"),
        (setting(*STAMPS, to=[{}]), f"{STAMPS_PATH}[0].signedTimestamp"),
        (setting(*STAMPS, to=[{"signedTimestamp": ""}]), f"{STAMPS_PATH}[0].signedTimestamp"),
        (setting(*STAMPS, to=[{"signedTimestamp": "dHN"}]), f"{STAMPS_PATH}[0].signedTimestamp"),
        (setting(*STAMPS, to=[{"signedTimestamp": "dHNy", "more": 1}]), f"{STAMPS_PATH}[0].more"),
        (setting(*STAMPS[:-1], "more", to=1), "verificationMaterial.timestampVerificationData.more"),
        (setting("dsseEnvelope", "payload", to="not base64!"), "dsseEnvelope.payload"),
        (setting("dsseEnvelope", "signatures", to=[]), "dsseEnvelope.signatures"),
    ],
)
def test_what_is_not_such_a_bundle_is_refused_by_name(change: Callable[[dict[str, Any]], None], field: str) -> None:
    bundle = made()
    change(bundle)

    with pytest.raises(InvalidArgument) as refused:
        Bundle.from_object(bundle)

    assert [violation.field for violation in refused.value.fields] == [field]


def test_a_refusal_says_where_the_bundle_stands() -> None:
    with pytest.raises(InvalidArgument, match=r"more_bundles\[0\]\.mediaType: is missing"):
        Bundle.from_object({}, path="more_bundles[0]")
