"""Receipts as gRPC brings them, read."""

from __future__ import annotations

from afdp.formats.anchor import Anchor
from afdp.formats.bundle import Bundle
from afdp.formats.canonical import strict_json
from afdp.formats.receipt import Receipt
from afdp.messages.notary import NotarizationReceipt, ReceiptState

_STATES = {ReceiptState.SIGNED: "signed", ReceiptState.LOGGED: "logged", ReceiptState.WITNESSED: "witnessed"}
_SAME = (
    *("evidence_package_hash", "rekor_log_id", "rekor_server_url", "signature_b64", "public_key_b64"),
    *("integrated_time", "log_index", "receipt_id", "key_id"),
)


def receipt_of(message: NotarizationReceipt) -> Receipt:
    """The receipt in a message."""
    return Receipt(
        **{name: getattr(message, name) for name in _SAME},
        state=_STATES[message.state],
        bundle=Bundle.from_json(message.bundle),
        more_bundles=tuple(map(Bundle.from_json, message.more_bundles)),
        anchors=tuple(Anchor.from_object(strict_json(each)) for each in message.anchors),
    )
