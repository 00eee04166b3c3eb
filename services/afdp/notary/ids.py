"""Workflow IDs: a prefix that names the type, and a UUIDv7; of a simple workflow it is the receipt's."""

from __future__ import annotations

import re

from afdp.errors import InvalidArgument
from afdp.messages.metadata import WorkflowType

SIMPLE_SIGNING = "simple-signing-"
APPROVAL_SIGNING = "approval-signing-"
BATCH_SIGNING = "batch-signing-"

PREFIXES = {
    WorkflowType.SIMPLE_SIGNING: SIMPLE_SIGNING,
    WorkflowType.APPROVAL_SIGNING: APPROVAL_SIGNING,
    WorkflowType.BATCH_SIGNING: BATCH_SIGNING,
}
NAMES = {
    WorkflowType.SIMPLE_SIGNING: "simple_signing",
    WorkflowType.APPROVAL_SIGNING: "approval_signing",
    WorkflowType.BATCH_SIGNING: "batch_signing",
}

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def parse_workflow_id(text: str) -> tuple[WorkflowType, str]:
    """The type and the UUID of a workflow ID.

    Raises:
        InvalidArgument: it is none.
    """
    for kind, prefix in PREFIXES.items():
        if text.startswith(prefix) and _UUID.fullmatch(text, len(prefix)):
            return kind, text[len(prefix) :]
    raise InvalidArgument.field("workflow_id", f"must be {', '.join(PREFIXES.values())} and a UUID")


def require_uuid(field: str, text: str) -> str:
    """The text, if it is a UUID in lower case.

    Raises:
        InvalidArgument: it is none.
    """
    if not _UUID.fullmatch(text):
        raise InvalidArgument.field(field, "must be a UUID in lower case")
    return text


def parse_hash(field: str, text: str) -> bytes:
    """A SHA-256, 32 bytes, from its 64 hex digits.

    Raises:
        InvalidArgument: it is none.
    """
    if not _SHA256.fullmatch(text):
        raise InvalidArgument.field(field, "must be 64 hex digits")
    return bytes.fromhex(text)
