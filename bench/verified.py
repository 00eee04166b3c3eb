"""Every answer must be a receipt that verifies."""

from __future__ import annotations

from collections.abc import Iterable

from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.receipts import verify_receipt


def require_verified(receipts: Iterable[object], trust: TrustRoot) -> int:
    """Verifies each; how many there were. A receipt that does not verify, or that comes twice, ends the benchmark."""
    seen: set[str] = set()
    for value in receipts:
        receipt = Receipt.from_object(value)
        result = verify_receipt(receipt, trust)
        if not result.verified or receipt.state != "logged" or receipt.receipt_id in seen:
            raise SystemExit(f"receipt {receipt.receipt_id} is no good: {result.failures()}")
        seen.add(receipt.receipt_id)
    return len(seen)
