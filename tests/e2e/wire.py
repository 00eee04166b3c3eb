"""Requests as bytes: what no generated client would send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from afdp.errors import InvalidArgument, NotaryError
from afdp.rpc.descriptors import Method, service_methods
from afdp.rpc.status import from_rpc_error
from tests.e2e.evidence import package

NOTARY = "afdp.notary.v1.NotaryService"
BUILT = {method.name: method for method in service_methods(NOTARY) if not method.planned}
TIMEOUT = 10.0
"""Seconds for one call: an answer that takes longer is a hang."""


@dataclass(frozen=True)
class Place:
    """A field somewhere inside of a request."""

    field: FieldDescriptor
    steps: tuple[str | int, ...]  # to the message that holds it

    @property
    def holder(self) -> str:
        """The path of the message that holds it, in the words of errors."""
        return rendered(self.steps) or "body"

    @property
    def path(self) -> str:
        """Its own path, in the words of errors."""
        return rendered((*self.steps, self.field.name))

    def within(self, root: Any) -> Any:
        """The part of a request that holds the field: of a message, or of JSON."""
        for step in self.steps:
            root = root[step] if isinstance(step, int) or isinstance(root, dict) else getattr(root, step)
        return root


def rendered(steps: tuple[str | int, ...]) -> str:
    """`a.b[0].c`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def places(message: Descriptor, steps: tuple[str | int, ...] = ()) -> Iterator[Place]:
    """Every field of a request, to the leaves; of repeated messages the first item's."""
    for field in message.fields:
        yield Place(field, steps)
        inner = field.message_type
        if inner is not None and not inner.full_name.startswith("google.protobuf."):
            yield from places(inner, (*steps, field.name, 0) if field.is_repeated else (*steps, field.name))


def message(method: Method, value: dict[str, Any]) -> Any:
    """A request as protobuf's own reader of JSON makes it."""
    return ParseDict(value, GetMessageClass(method.request)())


async def call(channel: grpc.aio.Channel, method: Method, data: bytes) -> bytes | NotaryError:
    """The answer to one request of these bytes, or the error."""
    try:
        if method.client_streaming:
            stream = channel.stream_stream(method.full_name)(iter([data]), timeout=TIMEOUT)
            return b"".join([answer async for answer in stream])
        if method.server_streaming:
            told: Any = channel.unary_stream(method.full_name)
            answers = told(data, timeout=TIMEOUT)
            first = await answers.read()
            answers.cancel()
            return first if isinstance(first, bytes) else b""
        answer: bytes = await channel.unary_unary(method.full_name)(data, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "notary")
    return answer


def refused(error: bytes | NotaryError) -> dict[str, str]:
    """The fields that INVALID_ARGUMENT names, with their messages."""
    assert isinstance(error, InvalidArgument), error
    return {fault.field: fault.message for fault in error.fields}


UUID = "01a20c2c-4868-73b6-8ef3-25441beaa2fd"
TIME = "2026-11-01T12:00:00Z"


def request(name: str) -> dict[str, Any]:
    """A request with every field, good but for its last word: what it asks for is refused or not there."""
    signing = {"wait_for": "RECEIPT_STATE_WITNESSED", "idempotency_key": "k"}
    return {
        "SignEvidence": lambda: {"evidence_package": package(), **signing, "dedupe": True},
        "SignEvidenceBatch": lambda: {"evidence_packages": [package()], **signing, "dedupe": True},
        "SignEvidenceStream": lambda: {
            "sequence": 7,
            "request": {"evidence_package": package(), **signing, "dedupe": True},
        },
        "ValidateEvidence": lambda: {"evidence_package": package(), "signature": "AAAA"},
        "GetEvidence": lambda: {"evidence_package_hash": "5e" * 32},
        "SearchEvidence": lambda: {
            "page_size": 1,
            "page_token": "AAAA",
            "evidence_package_hash": "5e" * 32,
            "artifact_hash": "5e" * 32,
            "event_type": "a.b",
            "actor_id": "a",
            "start_time": TIME,
            "end_time": TIME,
            "actor_type": "b",
            "submitter": "c",
            "key_id": "nobody:1",
            "log_index": 7,
            "log_origin": "d.example",
            "metadata": ["e.f=g"],
            "oldest_first": True,
        },
        "ExportEvidence": lambda: {
            "format": "EXPORT_FORMAT_CSV",
            "after": UUID,
            "evidence_package_hash": "5e" * 32,
            "artifact_hash": "5e" * 32,
            "event_type": "a.b",
            "actor_id": "a",
            "start_time": TIME,
            "end_time": TIME,
            "actor_type": "b",
            "submitter": "c",
            "key_id": "nobody:1",
            "log_index": 7,
            "log_origin": "d.example",
            "metadata": ["e.f=g"],
            "oldest_first": True,
        },
        "GetWorkflowStatus": lambda: {"workflow_id": f"simple-signing-{UUID}"},
        "GetNotarizationReceipt": lambda: {"workflow_id": f"simple-signing-{UUID}"},
        "ListWorkflows": lambda: {
            "page_size": 1,
            "page_token": "AAAA",
            "status_filter": "WORKFLOW_STATUS_FAILED",
            "start_time": TIME,
            "end_time": TIME,
        },
        "GetReceipt": lambda: {"receipt_id": UUID},
        "WatchReceipts": lambda: {"cursor": "AAAA"},
        "ListKeys": dict,
        "RotateKey": lambda: {"purpose": "KEY_PURPOSE_LOG", "name": "nobody"},
        "RevokeKey": lambda: {"key_id": "nobody:1", "compromised_since": TIME, "reason": "r"},
        "ListAffectedReceipts": lambda: {"key_id": "nobody:1", "since": TIME, "page_size": 1, "page_token": "AAAA"},
        "ListAuditEvents": lambda: {
            "page_size": 1,
            "page_token": "AAAA",
            "start_time": TIME,
            "end_time": TIME,
            "actor": "nobody",
            "resource": f"receipt:{UUID}",
            "result": "deny",
        },
        "ExportAuditRows": lambda: {"after_sequence": 10**15, "page_size": 1, "all_tenants": False},
        "ExportAuditSeals": lambda: {"after_number": 10**15, "page_size": 1},
        "PlaceHold": lambda: {
            "case_number": "c",
            "reason": "r",
            "artifact_hash": "00" * 32,
            "actor_id": "nobody",
            "event_type": "no.such",
            "subject": "nobody",
            "start_time": TIME,
            "end_time": "2026-11-02T12:00:00Z",
        },
        "ReleaseHold": lambda: {"hold_id": UUID, "reason": "r"},
        "ListHolds": lambda: {"include_released": True, "page_size": 1, "page_token": UUID},
        "EraseSubject": lambda: {"subject": "human:nobody", "erasure_id": "", "reason": "r"},
        "GetErasure": lambda: {"erasure_id": "00" * 16},
        "ListErasures": lambda: {"page_size": 1, "page_token": "00" * 16},
        "RunRetention": lambda: {"dry_run": True},
        "GetTrustRoot": dict,
        "ExportAffectedReceipts": lambda: {"key_id": "nobody:1", "since": TIME, "page_size": 1, "after": UUID},
        "GetTrustFile": lambda: {"name": "1.root.json"},
        "PublishTrust": lambda: {"files": [{"name": "1.root.json", "content": "{}"}]},
        "CreateTimestamp": lambda: {"timestamp_request": "AAAA"},
        "AddLogEntry": lambda: {"entry": "AAAA"},
        "AddLogEntries": lambda: {"requests": [{"entry": "AAAA"}]},
        "GetStatus": dict,
        "WhoAmI": dict,
        "HealthCheck": lambda: {"writes": True},
    }[name]()


PLACES = [(name, place) for name, method in BUILT.items() for place in places(method.request)]
IDS = [f"{name} {place.path}" for name, place in PLACES]


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
