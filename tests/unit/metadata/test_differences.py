"""What a conflict under an idempotency key says: which fields differ, and nothing of what the old evidence was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import orjson
import pytest

from afdp.messages.metadata import WorkflowType
from afdp.metadata.differences import MOST_NAMED, say_what_differs
from afdp.metadata.values import Draft, KeyTaken, Principal, Record, SearchTerms

NOW = datetime(2026, 11, 24, tzinfo=UTC)
BEFORE = {
    "actor": {"actor_type": "human", "auth_provider": "ldap", "id": "ada"},
    "artifacts": [{"hash_sha256": "ab" * 32, "name": "a"}, {"hash_sha256": "cd" * 32, "name": "b"}],
    "event_type": "ai.model.deployed",
    "metadata": {"run": 1, "secret-name": "secret-value", "on": True, "big": 1e300},
    "spec_version": "1.0.0",
    "timestamp_utc": "2026-11-01T12:00:00Z",
}


def draft(evidence: bytes) -> Draft:
    return Draft(
        receipt_id=UUID(int=7),
        submitter=Principal("acme", "", "ada", "none"),
        idempotency=None,
        workflow_type=WorkflowType.SIMPLE_SIGNING,
        batch_id=None,
        evidence=evidence,
        evidence_hash=sha256(evidence).digest(),
        terms=SearchTerms("", "", "", NOW, ()),
        statement=b"",
        signature=b"",
        key_id="",
        leaf_hash=b"",
        notarized_at=NOW,
    )


def differing(now: object, before: bytes | None = None) -> dict[str, str]:
    old = Record(draft(orjson.dumps(BEFORE) if before is None else before), None, None)
    refused = say_what_differs(KeyTaken("used before", old), draft(orjson.dumps(now)))
    assert refused.message == "used before"
    assert "secret" not in str(refused)
    return {fault.field.removeprefix("evidence_package."): fault.message for fault in refused.fields}


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"event_type": "ai.model.retired"}, {"event_type": "was another"}),
        ({"actor": {**BEFORE["actor"], "id": "eve"}}, {"actor.id": "was another"}),
        ({"actor": {"actor_type": "human", "id": "ada"}}, {"actor": "had more members"}),
        ({"artifacts": BEFORE["artifacts"][:1]}, {"artifacts": "had another number of elements"}),
        (
            {"artifacts": [BEFORE["artifacts"][0], {"hash_sha256": "cd" * 32, "name": "B", "uri": "s3://b"}]},
            {"artifacts[1].name": "was another", "artifacts[1].uri": "was not there"},
        ),
        ({"metadata": {**BEFORE["metadata"], "on": 1}}, {"metadata.on": "was another"}),
        ({"metadata": {"run": 1.0, "new": {}}}, {"metadata.new": "was not there", "metadata": "had more members"}),
        ({"metadata": {**BEFORE["metadata"], "run": [1]}}, {"metadata.run": "was another"}),
    ],
)
def test_each_field_that_differs_is_named_and_no_old_value(changes: dict[str, object], differs: dict[str, str]) -> None:
    assert differing({**BEFORE, **changes}) == differs


def test_no_more_are_named_than_a_caller_reads() -> None:
    assert len(differing({**BEFORE, "metadata": {f"k{n}": n for n in range(500)}})) == MOST_NAMED


@pytest.mark.parametrize("unreadable", [b"", b"\x00sealed", b"{"])
def test_where_the_old_evidence_cannot_be_read_only_the_conflict_is_told(unreadable: bytes) -> None:
    assert differing(BEFORE, unreadable) == {}


def test_where_the_record_is_gone_only_the_conflict_is_told() -> None:
    assert say_what_differs(KeyTaken("used before", None), draft(b"{}")).fields == ()


def test_the_same_evidence_differs_in_nothing() -> None:
    same = draft(orjson.dumps(BEFORE))
    assert say_what_differs(KeyTaken("other options", Record(replace(same), None, None)), same).fields == ()
