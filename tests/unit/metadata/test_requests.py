"""What a request is refused for, each field by its name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from afdp.errors import InvalidArgument
from afdp.messages.metadata import (
    CompleteRequest,
    Completion,
    CreateBatchRequest,
    Draft,
    FindAnswerRequest,
    FindEvidenceRequest,
    FinishBatchRequest,
    GetRecordRequest,
    GetWorkflowRequest,
    Idempotency,
    ListPendingRequest,
    ListWorkflowsRequest,
    PrepareRequest,
    Principal,
    SearchRecordsRequest,
    SearchTerms,
    WorkflowState,
    WorkflowType,
)
from afdp.metadata import requests, search_requests

ID = "0192f0c1-2d3e-7abc-8def-0123456789ab"
TIME = datetime(2026, 11, 24, 4, 9, 28, tzinfo=UTC)
HASH = bytes(32)
NUL, LONG, ROUND = "a\0", "a" * 513, "é" * 257
NAIVE = datetime(2026, 1, 1)


def draft() -> Draft:
    return Draft(
        receipt_id=ID,
        submitter=Principal(tenant="acme", issuer="", subject="anonymous", method="none"),
        idempotency=Idempotency(key="k", fingerprint=HASH),
        workflow_type=WorkflowType.SIMPLE_SIGNING,
        evidence=b"{}",
        evidence_hash=HASH,
        terms=SearchTerms(
            event_type="a.b", actor_type="human", actor_id="Zoë", timestamp_utc=TIME, artifact_hashes=[HASH]
        ),
        statement=b"{}",
        signature=b"s",
        key_id="k:1",
        leaf_hash=HASH,
        notarized_at=TIME,
    )


def changed(message: Any, path: str, value: Any) -> Any:
    """The message with one field set."""
    target = message
    *parents, last = path.split(".")
    for name in parents:
        target = getattr(target, name)
    setattr(target, last, value)
    return message


def fields_of(read: Callable[[Any], Any], request: Any) -> list[str]:
    with pytest.raises(InvalidArgument) as refused:
        read(request)
    return [violation.field for violation in refused.value.fields]


def test_a_good_draft_is_read() -> None:
    (read,) = requests.read_prepare(PrepareRequest(drafts=[draft()]))

    assert not isinstance(read, InvalidArgument)
    assert str(read.receipt_id) == ID
    assert read.batch_id is None
    assert read.terms.actor_id == "Zoë"
    assert read.terms.artifact_hashes == (HASH,)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[("receipt_id", bad) for bad in ("", "x", "x" * 36, "{" + ID[:34] + "}", ID.replace("-7", "-4"), ID + "0")],
        ("submitter", None),
        *[("submitter.tenant", bad) for bad in ("", NUL, LONG, ROUND, "\ud800")],
        *[("submitter.issuer", bad) for bad in (NUL, LONG)],
        *[("submitter.subject", bad) for bad in ("", NUL, LONG)],
        *[("submitter.method", bad) for bad in ("", "OIDC", "basic")],
        *[("idempotency.key", bad) for bad in ("", "a" * 256, "é", "a\n", "\x7f")],
        *[("idempotency.fingerprint", bad) for bad in (b"", bytes(31), bytes(33))],
        *[("workflow_type", bad) for bad in (WorkflowType.UNSPECIFIED, WorkflowType(9))],
        *[("batch_id", bad) for bad in ("x", ID.replace("-7", "-1"))],
        *[("evidence", bad) for bad in (b"", bytes(512 * 1024 + 1))],
        *[("evidence_hash", bad) for bad in (b"", bytes(31), bytes(64))],
        ("terms", None),
        *[(f"terms.{name}", bad) for name in ("event_type", "actor_type", "actor_id") for bad in ("", NUL, LONG)],
        *[("terms.timestamp_utc", bad) for bad in (None, NAIVE)],
        ("terms.artifact_hashes", [HASH] * 1001),
        *[("statement", bad) for bad in (b"", bytes(1024 * 1024 + 1))],
        *[("signature", bad) for bad in (b"", bytes(1025))],
        *[("key_id", bad) for bad in ("", NUL, LONG)],
        *[("leaf_hash", bad) for bad in (b"", bytes(20))],
        ("notarized_at", None),
        ("timestamp", bytes(16 * 1024 + 1)),
    ],
)
def test_a_draft_with_one_bad_field_is_refused_alone_and_by_its_name(path: str, value: Any) -> None:
    bad = changed(draft(), path, value)

    first, second, third = requests.read_prepare(PrepareRequest(drafts=[draft(), bad, draft()]))

    assert isinstance(second, InvalidArgument)
    names = {violation.field for violation in second.fields}
    assert f"drafts[1].{path}" in names
    assert all(name.startswith(f"drafts[1].{path}") for name in names)
    assert not isinstance(first, InvalidArgument)
    assert not isinstance(third, InvalidArgument)


def test_an_artifact_hash_is_named_by_its_index() -> None:
    bad = changed(draft(), "terms.artifact_hashes", [HASH, b"short", HASH])

    (read,) = requests.read_prepare(PrepareRequest(drafts=[bad]))

    assert isinstance(read, InvalidArgument)
    assert [violation.field for violation in read.fields] == ["drafts[0].terms.artifact_hashes[1]"]


def test_every_bad_field_is_named_at_once() -> None:
    (read,) = requests.read_prepare(PrepareRequest(drafts=[Draft()]))

    assert isinstance(read, InvalidArgument)
    named = {violation.field.removeprefix("drafts[0].") for violation in read.fields}
    assert {"receipt_id", "submitter", "evidence", "terms", "terms.event_type", "leaf_hash", "notarized_at"} <= named


@pytest.mark.parametrize("number", [0, 1025])
def test_a_batch_has_1_to_1024_items(number: int) -> None:
    assert fields_of(requests.read_prepare, PrepareRequest(drafts=[Draft()] * number)) == ["drafts"]
    assert fields_of(requests.read_complete, CompleteRequest(completions=[Completion()] * number)) == ["completions"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("receipt_id", "x"),
        ("log_index", 2**63),
        ("proof", bytes(33)),
        ("proof", bytes(65 * 32)),
    ],
)
def test_a_completion_with_one_bad_field_is_refused_alone_and_by_its_name(path: str, value: Any) -> None:
    good = Completion(receipt_id=ID, log_index=0, proof=bytes(64))
    bad = changed(Completion(receipt_id=ID, log_index=0, proof=b""), path, value)
    request = CompleteRequest(origin="o", tree_size=1, checkpoint="c", completions=[good, bad])

    _, (first, second) = requests.read_complete(request)

    assert not isinstance(first, InvalidArgument)
    assert isinstance(second, InvalidArgument)
    assert [violation.field for violation in second.fields] == [f"completions[1].{path}"]


BAD_FIELDS: list[tuple[Callable[[Any], Any], Any, list[tuple[str, Any]]]] = [
    (
        requests.read_complete,
        CompleteRequest(origin="o", tree_size=1, checkpoint="c", completions=[Completion(receipt_id=ID)]),
        [
            *[("origin", ""), ("origin", NUL), ("tree_size", 0), ("tree_size", 2**63)],
            *[("checkpoint", ""), ("checkpoint", "c" * (64 * 1024 + 1))],
        ],
    ),
    (
        requests.read_list_pending,
        ListPendingRequest(page_size=1),
        [("page_size", 0), ("page_size", 1025), ("after_receipt_id", "x"), ("before", NAIVE)],
    ),
    (
        requests.read_get_record,
        GetRecordRequest(tenant="t", receipt_id=ID),
        [("tenant", ""), ("tenant", LONG), ("receipt_id", ""), ("receipt_id", "x")],
    ),
    (
        requests.read_find_evidence,
        FindEvidenceRequest(tenant="t", evidence_hash=HASH),
        [("tenant", ""), ("evidence_hash", b""), ("signature", bytes(1025))],
    ),
    (
        requests.read_find_answer,
        FindAnswerRequest(submitter=Principal(tenant="t", subject="s", method="mtls"), evidence=b"{}"),
        [("submitter", None), ("submitter.tenant", ""), ("idempotency", Idempotency()), ("evidence", b"")],
    ),
    (
        search_requests.read_search,
        SearchRecordsRequest(tenant="t", page_size=1),
        [
            *[("tenant", ""), ("page_size", 0), ("page_size", 1001), ("evidence_hash", b"x"), ("artifact_hash", b"x")],
            *[("event_type", NUL), ("actor_id", LONG), ("key_id", ROUND), ("start_time", NAIVE), ("end_time", NAIVE)],
            *[("actor_type", NUL), ("submitter", LONG), ("log_index", 2**63), ("log_origin", NUL)],
            *[("metadata", ["a=b"] * 9)],
        ],
    ),
    (
        requests.read_create_batch,
        CreateBatchRequest(
            batch_id=ID, submitter=Principal(tenant="t", subject="s", method="mtls"), item_count=1, created_at=TIME
        ),
        [
            *[("batch_id", ""), ("submitter", None), ("submitter.method", ""), ("idempotency", Idempotency())],
            *[("item_count", 0), ("item_count", 2**31), ("created_at", None)],
        ],
    ),
    (
        requests.read_finish_batch,
        FinishBatchRequest(tenant="t", batch_id=ID),
        [("tenant", ""), ("batch_id", "x"), ("succeeded", 2**31), ("failed", 2**31)],
    ),
    (
        requests.read_get_workflow,
        GetWorkflowRequest(tenant="t", type=WorkflowType.BATCH_SIGNING, id=ID),
        [("tenant", ""), ("type", WorkflowType.UNSPECIFIED), ("id", "x")],
    ),
    (
        requests.read_list_workflows,
        ListWorkflowsRequest(tenant="t", page_size=1),
        [
            *[("tenant", ""), ("page_size", 0), ("page_size", 1001), ("state", WorkflowState(8))],
            *[("start_time", NAIVE), ("end_time", NAIVE)],
        ],
    ),
]


def test_a_place_in_metadata_without_a_path_or_a_value_is_refused_by_its_number() -> None:
    request = SearchRecordsRequest(tenant="t", page_size=1, metadata=["a.b=c=d", "no equals sign", "=c", "a.b="])

    assert fields_of(search_requests.read_search, request) == ["metadata[1]", "metadata[2]"]


@pytest.mark.parametrize(
    ("read", "good", "path", "value"),
    [(read, good, path, value) for read, good, bad in BAD_FIELDS for path, value in bad],
)
def test_a_request_with_one_bad_field_is_refused_by_its_name(
    read: Callable[[Any], Any], good: Any, path: str, value: Any
) -> None:
    read(good)

    names = fields_of(read, changed(deepcopy(good), path, value))

    assert names
    assert all(name.split(".")[0] == path.split(".")[0] for name in names)


def test_what_is_optional_may_be_absent() -> None:
    query, page_size, token = search_requests.read_search(SearchRecordsRequest(tenant="t", page_size=10))

    assert (query.tenant, page_size, token) == ("t", 10, "")
    assert (query.evidence_hash, query.artifact_hash, query.event_type, query.actor_id, query.key_id) == (None,) * 5
    assert (query.actor_type, query.submitter, query.log_index, query.log_origin, query.metadata) == (*[None] * 4, ())
    assert requests.read_list_workflows(ListWorkflowsRequest(tenant="t", page_size=1))[0].state is None
    assert requests.read_list_pending(ListPendingRequest(page_size=1)) == (1, None, None)
