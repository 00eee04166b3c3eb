"""Terms: the same of a record and of a question about it, and of nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from afdp.errors import InvalidArgument
from afdp.formats.canonical import canonical_json
from afdp.messages.metadata import WorkflowType
from afdp.metadata.config import MetadataSettings
from afdp.metadata.terms import MAX_VALUE_BYTES, TERM_BYTES, Terms, term
from afdp.metadata.values import Draft, Principal, Search, SearchTerms

TERMS = Terms(("model.name", "n", "tags"))
TIME = datetime(2026, 11, 24, tzinfo=UTC)


def draft(metadata: Any = None, tenant: str = "acme", evidence: bytes | None = None) -> Draft:
    return Draft(
        receipt_id=UUID(int=0),
        submitter=Principal(tenant, "https://id.example", "ci@acme.example", "oidc"),
        idempotency=None,
        workflow_type=WorkflowType.SIMPLE_SIGNING,
        batch_id=None,
        evidence=canonical_json({"metadata": metadata}) if evidence is None else evidence,
        evidence_hash=bytes(32),
        terms=SearchTerms("a.b", "human", "alice", TIME, ()),
        statement=b"",
        signature=b"",
        key_id="",
        leaf_hash=bytes(32),
        notarized_at=TIME,
    )


def finds(asked: tuple[str, str], metadata: Any) -> bool:
    return set(TERMS.asked(Search("acme", metadata=(asked,)))) <= set(TERMS.of(draft(metadata)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[("résumé=1", "résumé=1"), ("1.10", "1.10"), ("", ""), (True, "true"), (False, "false")],
        *[(3, "3"), (3.0, "3"), (0.25, "0.25"), (-1e-7, "-1e-7"), (1e20, "100000000000000000000"), (1e21, "1e+21")],
        *[(["a", 7], "a"), (["a", 7], "7"), ("x" * MAX_VALUE_BYTES, "x" * MAX_VALUE_BYTES)],
    ],
    ids=lambda each: repr(each)[:24],
)
def test_a_value_is_found_by_its_text_in_the_canonical_form(value: Any, text: str) -> None:
    assert finds(("n", text), {"n": value})
    assert not finds(("n", text + "0"), {"n": value})


@pytest.mark.parametrize(
    ("metadata", "asked"),
    [
        *[
            ({"n": 1}, ("tags", "1")),
            ({"model": {"name": "x"}}, ("n", "x")),
            ({"model.name": "x"}, ("model.name", "x")),
        ],
        *[({"n": None}, ("n", "null")), ({"n": {"a": 1}}, ("n", "{'a': 1}")), (None, ("n", ""))],
        *[({"n": [["a"]]}, ("n", "a")), ({"n": ["a"] * 64 + ["b"]}, ("n", "b"))],
        ({"n": "é" * MAX_VALUE_BYTES}, ("n", "é" * MAX_VALUE_BYTES)),
    ],
    ids=lambda each: repr(each)[:24],
)
def test_what_stands_elsewhere_or_is_no_value_is_not_found(metadata: Any, asked: tuple[str, str]) -> None:
    assert not finds(asked, metadata)


def test_a_nested_place_and_the_submitter_are_found_and_each_term_is_there_once() -> None:
    of = TERMS.of(draft({"model": {"name": "credit-risk"}, "tags": ["a", "a", "b"]}))

    assert set(
        TERMS.asked(Search("acme", submitter="ci@acme.example", metadata=(("model.name", "credit-risk"),)))
    ) < set(of)
    assert len(of) == len(set(of)) == 4
    assert {len(each) for each in of} == {TERM_BYTES}


def test_tenants_share_no_term_and_neither_do_kinds_or_places() -> None:
    assert not set(TERMS.of(draft({"n": 1}))) & set(TERMS.of(draft({"n": 1}, tenant="other")))
    assert (
        len({term("t", "a", "b", "c"), term("t", "a", "bc"), term("t", "ab", "c"), term("t", "a", "b", "", "c")}) == 4
    )


@pytest.mark.parametrize("evidence", [b"", b"\xff", b"[]", b"7", b'{"metadata":[]}'])
def test_evidence_that_is_no_package_is_found_by_its_submitter_alone(evidence: bytes) -> None:
    assert TERMS.of(draft(evidence=evidence)) == [term("acme", "submitter", "ci@acme.example")]


def test_a_question_about_another_place_is_refused_and_says_which_there_are() -> None:
    with pytest.raises(InvalidArgument) as refused:
        TERMS.require_searchable(Search("acme", metadata=(("n", "1"), ("salary", "1"))))

    [fault] = refused.value.fields
    assert fault.field == "metadata[1]"
    assert "model.name, n, tags" in fault.message
    with pytest.raises(InvalidArgument, match=r"metadata\[0\]: .*AFDP_SEARCHABLE_METADATA is empty"):
        Terms().require_searchable(Search("acme", metadata=(("n", "1"),)))


@pytest.mark.parametrize("paths", ["a..b", ".a", "a.", "a=b", "a b", "x" * 256, ",".join(f"p{at}" for at in range(65))])
def test_paths_that_are_none_are_refused_when_the_service_starts(paths: str) -> None:
    url = "postgresql://afdp@127.0.0.1/afdp"
    assert MetadataSettings(database_url=url, searchable_metadata=" a.b, c ").searchable_metadata == ("a.b", "c")
    with pytest.raises(ValueError, match="searchable_metadata"):
        MetadataSettings(database_url=url, searchable_metadata=paths)
