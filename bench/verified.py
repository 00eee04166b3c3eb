"""Every answer must be a receipt that verifies."""

from __future__ import annotations

from collections.abc import Iterable

from afdp.formats.receipt import Receipt
from afdp.formats.trust import TrustRoot
from afdp.verify.policy import Policy
from afdp.verify.receipts import verify_receipt


def require_verified(receipts: Iterable[object], trust: TrustRoot, state: str = "logged") -> int:
    """Verifies each; how many there were. One that does not verify, or is in another state, or comes twice, ends it."""
    policy = Policy(require_log=state != "signed")
    seen: set[str] = set()
    for value in receipts:
        receipt = Receipt.from_object(value)
        result = verify_receipt(receipt, trust, policy)
        if not result.verified or receipt.state != state or receipt.receipt_id in seen:
            raise SystemExit(f"receipt {receipt.receipt_id} is no good: {result.failures()}")
        seen.add(receipt.receipt_id)
    return len(seen)
