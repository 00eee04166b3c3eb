"""Records in columns as lines of CSV."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from afdp.formats.timestamps import format_timestamp
from afdp.messages.metadata import ListSignedRecordsResponse

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def csv_of(found: ListSignedRecordsResponse) -> bytes:
    """A line each: receipt_id, notarized_at, log_index, evidence_package_hash. Nothing in them needs quotes."""
    identifiers, hashes = found.receipt_ids.hex(), found.evidence_hashes.hex()
    lines = [
        f"{_uuid(identifiers[32 * at : 32 * at + 32])},{format_timestamp(_EPOCH + timedelta(microseconds=time))},"
        f"{index if index >= 0 else ''},{_hash(hashes[64 * at : 64 * at + 64])}\r\n"
        for at, (time, index) in enumerate(zip(found.notarized_at, found.log_indexes, strict=True))
    ]
    return "".join(lines).encode()


def receipts_of(found: ListSignedRecordsResponse) -> list[str]:
    """The IDs of what stands in the lines, in order."""
    identifiers = found.receipt_ids.hex()
    return [_uuid(identifiers[at : at + 32]) for at in range(0, len(identifiers), 32)]


def _hash(digits: str) -> str:
    return digits.strip("0") and digits  # of who was erased there is none


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
