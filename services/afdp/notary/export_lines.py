"""Records as lines of an export: NDJSON with all that proves them, or CSV with what a table shows."""

from __future__ import annotations

from typing import Protocol

import orjson

from afdp.errors import DataLoss, Erased
from afdp.formats.csv_lines import csv_line
from afdp.formats.timestamps import format_timestamp
from afdp.messages import metadata as store
from afdp.messages.notary import ExportFormat, NotarizationReceipt
from afdp.notary.ids import PREFIXES, SIMPLE_SIGNING
from afdp.notary.receipts import ReceiptOffice

_COLUMNS = (
    "receipt_id",
    "notarized_at",
    "state",
    "event_type",
    "timestamp_utc",
    "actor_type",
    "actor_id",
    "submitter_issuer",
    "submitter",
    "evidence_package_hash",
    "artifact_hashes",
    "key_id",
    "log_origin",
    "log_index",
    "workflow_id",
    "erased_at",
)


class Form(Protocol):
    """What lines are written in."""

    head: bytes

    async def line(self, record: store.Record) -> bytes:
        """One record, with its line end. Raises Unavailable where its receipt cannot be made now."""


class Ndjson:
    """A JSON object a line: `receipt_id`, `notarized_at`, `workflow_id`, `submitter`, `evidence_package`, `receipt`.

    A receipt that is withheld, since something does not hold, is null; `error` says why. So it is where the subject was
    erased, with all that was about it; `erased` says when, and which receipt certifies it.
    """

    head = b""

    def __init__(self, office: ReceiptOffice) -> None:
        self._office = office

    async def line(self, record: store.Record) -> bytes:
        """One record, with its line end."""
        draft = record.draft or store.Draft()
        said: dict[str, object] = {
            "receipt_id": draft.receipt_id,
            "notarized_at": format_timestamp(draft.notarized_at) if draft.notarized_at else None,
            "workflow_id": _workflow_id(draft),
            "submitter": _submitter(draft),
            "evidence_package": orjson.Fragment(draft.evidence) if draft.evidence else None,
        }
        try:
            said["receipt"] = _printed(await self._office.later_receipt(record))
        except Erased as error:
            facts = {"erased_at": error.metadata.get("erased_at"), "certificate": error.metadata["certificate"]}
            said |= {"receipt": None, "erased": facts}
        except DataLoss as error:
            said |= {"receipt": None, "error": {"code": error.code, "message": error.message}}
        return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


class Csv:
    """A line each, of the columns that the head names."""

    head = csv_line(_COLUMNS)

    async def line(self, record: store.Record) -> bytes:
        """One record, with its line end."""
        draft = record.draft or store.Draft()
        terms, submitter = draft.terms or store.SearchTerms(), draft.submitter or store.Principal()
        logged, erased = record.log, record.erased
        return csv_line(
            (
                draft.receipt_id,
                format_timestamp(draft.notarized_at) if draft.notarized_at else "",
                "signed" if logged is None else "logged",
                terms.event_type,
                format_timestamp(terms.timestamp_utc) if terms.timestamp_utc else "",
                terms.actor_type,
                terms.actor_id,
                submitter.issuer,
                submitter.subject,
                draft.evidence_hash.hex(),
                " ".join(each.hex() for each in terms.artifact_hashes),
                draft.key_id,
                "" if logged is None else logged.origin,
                "" if logged is None else str(logged.log_index),
                _workflow_id(draft),
                "" if erased is None else format_timestamp(erased.at) if erased.at else "erased",
            )
        )


def forms(office: ReceiptOffice) -> dict[ExportFormat, Form]:
    """The forms that there are; the first is that of who asks for none."""
    ndjson = Ndjson(office)
    return {ExportFormat.UNSPECIFIED: ndjson, ExportFormat.NDJSON: ndjson, ExportFormat.CSV: Csv()}


def _workflow_id(draft: store.Draft) -> str:
    return PREFIXES.get(draft.workflow_type, SIMPLE_SIGNING) + draft.receipt_id


def _submitter(draft: store.Draft) -> dict[str, str]:
    who = draft.submitter or store.Principal()
    return {"issuer": who.issuer, "subject": who.subject, "method": who.method}


def _printed(receipt: NotarizationReceipt) -> dict[str, object]:
    """As the REST API prints it, and as `afdp.formats.receipt` reads it."""
    return {
        "evidence_package_hash": receipt.evidence_package_hash,
        "rekor_log_id": receipt.rekor_log_id,
        "rekor_server_url": receipt.rekor_server_url,
        "signature_b64": receipt.signature_b64,
        "public_key_b64": receipt.public_key_b64,
        "integrated_time": receipt.integrated_time,
        "log_index": receipt.log_index,
        "receipt_id": receipt.receipt_id,
        "state": (receipt.state.name or "").lower(),
        "key_id": receipt.key_id,
        "bundle": orjson.Fragment(receipt.bundle),
        "more_bundles": [orjson.Fragment(each) for each in receipt.more_bundles],
        "anchors": [orjson.Fragment(each) for each in receipt.anchors],
    }
