from __future__ import annotations

import json
from typing import Any

import pytest

from afdp.errors import InvalidArgument
from afdp.formats.bundle import Bundle, bundle_json
from afdp.formats.encoding import b64
from afdp.formats.receipt import Receipt

BUNDLE = bundle_json(hint="aGludA==", payload=b"{}", signature=b"sig")
RECEIPT: dict[str, Any] = {
    "evidence_package_hash": "ab" * 32,
    "rekor_log_id": "cd" * 32,
    "rekor_server_url": "http://127.0.0.1:8053",
    "signature_b64": "c2ln",
    "public_key_b64": "a2V5",
    "integrated_time": 1_795_752_568,
    "log_index": 0,
    "receipt_id": "0199d3a0-0000-7000-8000-000000000000",
    "state": "signed",
    "key_id": "afdp-file-key:1",
    "bundle": json.loads(BUNDLE),
    "more_bundles": [],
    "anchors": [
        {
            "logIndex": "5",
            "treeSize": "7",
            "hashes": [b64(b"h" * 32)],
            "checkpoint": "log.example\n7\ncnJy\n\n— log.example AAAA\n",
            "timestamp": "dHNy",
        }
    ],
}
LATER = ("more_bundles", "anchors")  # what older receipts do not have


def test_a_receipt_reads_back_as_it_was_written_in_the_order_of_the_message() -> None:
    receipt = Receipt.from_json(json.dumps(RECEIPT))

    assert json.loads(receipt.to_json()) == RECEIPT
    assert list(json.loads(receipt.to_json())) == list(RECEIPT)
    assert receipt.bundle == Bundle.from_json(BUNDLE)
    assert receipt.signature == b"sig"
    assert receipt.public_key == b"key"


def test_a_receipt_without_further_bundles_and_anchors_may_leave_them_out() -> None:
    receipt = Receipt.from_object({name: value for name, value in RECEIPT.items() if name not in LATER})

    assert (receipt.more_bundles, receipt.anchors) == ((), ())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("evidence_package_hash", "AB" * 32),
        ("evidence_package_hash", "ab" * 31),
        ("rekor_log_id", 7),
        ("signature_b64", "c2ln\n"),
        ("public_key_b64", ""),
        ("integrated_time", -1),
        ("integrated_time", "1795752568"),
        ("log_index", True),
        ("log_index", 1.5),
        ("receipt_id", ""),
        ("state", "LOGGED"),
        ("key_id", None),
        ("more_bundles", {}),
        ("anchors", {}),
        ("colour", "blue"),
    ],
)
def test_a_receipt_of_another_form_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Receipt.from_object({**RECEIPT, field: value})

    assert [violation.field for violation in refused.value.fields] == [field]


@pytest.mark.parametrize("field", [name for name in RECEIPT if name not in LATER])
def test_a_receipt_that_lacks_a_member_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{field}: is missing"):
        Receipt.from_object({name: value for name, value in RECEIPT.items() if name != field})


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("logIndex", 5),
        ("logIndex", "-1"),
        ("treeSize", None),
        ("hashes", "AAAA"),
        ("checkpoint", ""),
        ("timestamp", ""),
        ("timestamp", "dHNy\n"),
        ("colour", "blue"),
    ],
)
def test_an_anchor_of_another_form_is_refused_by_name(member: str, value: object) -> None:
    anchor = {**RECEIPT["anchors"][0], member: value}

    with pytest.raises(InvalidArgument) as refused:
        Receipt.from_object({**RECEIPT, "anchors": [anchor]})

    assert [violation.field for violation in refused.value.fields] == [f"anchors[0].{member}"]


def test_a_bare_bundle_is_told_from_a_receipt() -> None:
    with pytest.raises(InvalidArgument, match="is a bare Sigstore bundle, not a receipt"):
        Receipt.from_json(BUNDLE)


def test_an_answer_of_the_api_is_told_from_a_receipt() -> None:
    with pytest.raises(InvalidArgument, match="the receipt is its member `receipt`"):
        Receipt.from_object({"workflow_id": "simple-signing-1", "receipt": RECEIPT, "status": "completed"})


def test_an_envelope_is_told_from_a_receipt() -> None:
    with pytest.raises(InvalidArgument, match="is a DSSE envelope, not a receipt"):
        Receipt.from_object(RECEIPT["bundle"]["dsseEnvelope"])
