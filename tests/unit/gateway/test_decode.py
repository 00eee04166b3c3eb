"""What is refused, and under which name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

Refusals = Callable[..., dict[str, str]]


def sign(**package: Any) -> bytes:
    return orjson.dumps({"evidence_package": package})


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        (b"", "body", "is empty"),
        (b"[]", "body", "must be an object, not an array"),
        (b"null", "body", "must be an object, not null"),
        (b'{"a"', "body", "not JSON"),
        (b'{"dedupe": true} x', "body", "not JSON"),
        (b"\xff\xfe", "body", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "body", "byte order mark"),
        (b'{"evidence": {}}', "evidence", "unknown field"),
        (b'{"evidence_package": {"Actor": {}}}', "evidence_package.Actor", "unknown field"),
        (b'{"evidence_package": []}', "evidence_package", "must be an object, not an array"),
        (b'{"dedupe": 1}', "dedupe", "must be true or false, not an integer"),
        (b'{"dedupe": "true"}', "dedupe", "must be true or false, not a string"),
        (b'{"idempotency_key": 5}', "idempotency_key", "must be a string, not an integer"),
        (b'{"wait_for": "sealed"}', "wait_for", '"signed", "logged", "witnessed"'),
        (b'{"wait_for": "LOGGED"}', "wait_for", "must be one of"),
        (b'{"wait_for": 2}', "wait_for", "not an integer"),
        (b'{"dedupe": true, "dedupe": true}', "dedupe", "the key stands twice"),
        (b'{"waitFor": "logged", "wait_for": "logged"}', "wait_for", "stands twice, as waitFor and as wait_for"),
        (b'{"evidencePackage": {"actor": {"id": 1, "id": 2}}}', "evidence_package.actor.id", "the key stands twice"),
        (b'{"evidence_package": {"metadata": {"n": 9007199254740992}}}', "evidence_package.metadata.n", "2^53-1"),
        (b'{"evidence_package": {"metadata": {"n": 1e999}}}', "evidence_package.metadata.n", "finite"),
        (b'{"evidence_package": {"metadata": {"n": NaN}}}', "evidence_package.metadata.n", "NaN is not JSON"),
        (b'{"evidence_package": {"metadata": {"a b": "\\u0000"}}}', 'evidence_package.metadata["a b"]', "U+0000"),
        (b'{"evidencePackage": {"eventType": "\\ud800"}}', "evidence_package.event_type", "lone surrogate"),
    ],
)
def test_a_bad_body_is_refused_by_name(refusals: Refusals, body: bytes, field: str, said: str) -> None:
    found = refusals("SignEvidence", body)

    assert said in found[field]


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24",
        "2026-11-24T04:09:28",
        "2026-11-24 04:09:28Z",
        "2026-13-24T04:09:28Z",
        "2026-02-30T04:09:28Z",
        "2026-11-24T24:00:00Z",
        "2026-11-24T04:09:60Z",
        "2026-11-24T04:09:28.1234567Z",
        "2026-11-24T04:09:28+24:00",
        "0000-12-31T23:59:59Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "٢٠٢٦-11-24T04:09:28Z",
        "",
        5,
        {},
    ],
)
def test_a_bad_timestamp_is_refused(refusals: Refusals, text: Any) -> None:
    assert list(refusals("SignEvidence", sign(timestamp_utc=text))) == ["evidence_package.timestamp_utc"]


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("2026-11-24T04:09:28Z", 1795493368, 0),
        ("2026-11-24T05:09:28.5+01:00", 1795493368, 500_000_000),
        ("2026-11-24T04:09:28.123456000Z", 1795493368, 123_456_000),
        ("1969-12-31T23:59:59.999999Z", -1, 999_999_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799, 999_999_000),
        ("1970-01-01T00:00:00Z", 0, 0),
    ],
)
def test_a_timestamp_is_kept_to_the_microsecond(decode: Any, text: str, seconds: int, nanos: int) -> None:
    package = decode("SignEvidence", sign(timestamp_utc=text)).evidence_package

    assert package.HasField("timestamp_utc")
    assert (package.timestamp_utc.seconds, package.timestamp_utc.nanos) == (seconds, nanos)


def test_every_fault_is_named_with_its_index(refusals: Refusals) -> None:
    artifacts = [{"name": "a"}, {"name": 1, "hashSha256": False}, "x", None, {"size": 5}]

    found = refusals("SignEvidence", sign(artifacts=artifacts, spec_version=1, metadata="m"))

    assert found == {
        "evidence_package.artifacts[1].name": "must be a string, not an integer",
        "evidence_package.artifacts[1].hash_sha256": "must be a string, not a boolean",
        "evidence_package.artifacts[2]": "must be an object, not a string",
        "evidence_package.artifacts[3]": "must be an object, not null",
        "evidence_package.artifacts[4].size": "unknown field",
        "evidence_package.spec_version": "must be a string, not an integer",
        "evidence_package.metadata": "must be an object, not a string",
    }


def test_the_number_of_named_faults_is_bounded(refusals: Refusals) -> None:
    assert len(refusals("SignEvidence", sign(artifacts=[{"x": 1}] * 1000))) == 20


def test_a_batch_names_the_package(refusals: Refusals) -> None:
    body = orjson.dumps({"evidence_packages": [{}, {"actor": {"id": 5}}]})

    assert list(refusals("SignEvidenceBatch", body)) == ["evidence_packages[1].actor.id"]


def test_null_is_absent(decode: Any) -> None:
    request = decode("SignEvidence", b'{"evidence_package": null, "wait_for": null, "dedupe": null}')

    assert request == type(request)()


def test_a_present_message_is_present_even_if_empty(decode: Any) -> None:
    assert decode("SignEvidence", b'{"evidence_package": {}}').HasField("evidence_package")


def test_the_actors_type_has_an_alias_but_one_value(decode: Any, refusals: Refusals) -> None:
    assert decode("SignEvidence", sign(actor={"type": "human"})).evidence_package.actor.actor_type == "human"
    for other in ("actor_type", "actorType"):
        found = refusals("SignEvidence", sign(actor={"type": "human", other: "human"}))
        assert list(found) == ["evidence_package.actor.actor_type"]


def nested(levels: int) -> dict[str, Any]:
    return {"in": nested(levels - 1)} if levels > 1 else {}


def test_metadata_may_nest_as_deep_as_protobuf_can_carry(decode: Any, refusals: Refusals) -> None:
    decode("SignEvidence", sign(metadata=nested(32)))
    assert "32 levels" in refusals("SignEvidence", sign(metadata=nested(33)))["evidence_package.metadata"]
    batch = orjson.dumps({"evidence_packages": [{"metadata": {"list": nested(31)}}]})
    decode("SignEvidenceBatch", batch)


def test_a_body_that_nests_without_end_is_refused(refusals: Refusals) -> None:
    body = b'{"evidence_package": {"metadata": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}}"

    assert "nested" in next(iter(refusals("SignEvidence", body).values()))


def test_a_header_or_a_path_that_says_the_same_as_the_body_is_fine(decode: Any) -> None:
    assert decode("SignEvidence", b'{"idempotencyKey": "k"}', key="k").idempotency_key == "k"
    assert decode("RevokeKey", b'{"key_id": "a:1"}', key_id="a%3A1").key_id == "a:1"


def test_booleans_in_a_query_are_words_or_digits(decode: Any, refusals: Refusals) -> None:
    assert decode("HealthCheck", query="writes=1").writes is True
    assert decode("HealthCheck", query="writes=true&").writes is True
    assert decode("HealthCheck", query="writes=0").writes is False
    for bad in ("writes", "writes=", "writes=yes", "writes=TRUE"):
        assert refusals("HealthCheck", query=bad) == {"writes": "must be true or false"}


def test_a_plus_in_a_query_is_a_space(decode: Any) -> None:
    assert decode("SearchEvidence", query="actor_id=a+b%2Bc").actor_id == "a b+c"


def test_where_the_body_is_all_no_query_is_known(refusals: Refusals) -> None:
    assert list(refusals("SignEvidence", b"{}", query="dedupe=true")) == ["dedupe"]
