from __future__ import annotations

import copy
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.evidence import (
    Actor,
    Artifact,
    EvidencePackage,
    canonical_evidence,
    checked_evidence,
    evidence_from_json,
    evidence_hash,
    evidence_violations,
)

NOW = datetime(2026, 11, 24, 4, 10, tzinfo=UTC)
WRITTEN: dict[str, Any] = {
    "spec_version": "1.0.0",
    "timestamp_utc": "2026-11-24T04:09:28.120Z",
    "event_type": "ai.model.deployment.completed",
    "actor": {"actor_type": "service", "id": "ci@acme", "auth_provider": "keycloak"},
    "artifacts": [
        {"name": "model.bin", "uri": "s3://models/model.bin", "hash_sha256": "AB" * 32},
        {"name": "größe.txt", "hash_sha256": "cd" * 32},
    ],
    "metadata": {"accuracy": 0.93, "steps": 120000, "git": {"dirty": False, "tags": ["a", None]}},
}
CANONICAL = (
    '{"actor":{"actor_type":"service","auth_provider":"keycloak","id":"ci@acme"},"artifacts":['
    '{"hash_sha256":"' + "ab" * 32 + '","name":"model.bin","uri":"s3://models/model.bin"},'
    '{"hash_sha256":"' + "cd" * 32 + '","name":"größe.txt"}],'
    '"event_type":"ai.model.deployment.completed",'
    '"metadata":{"accuracy":0.93,"git":{"dirty":false,"tags":["a",null]},"steps":120000},'
    '"spec_version":"1.0.0","timestamp_utc":"2026-11-24T04:09:28.120Z"}'
).encode()


def written(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(WRITTEN), **changes}


def artifact(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "hash_sha256": "ab" * 32, **changes}


def refusals(value: object, prefix: str = "") -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        checked_evidence(evidence_from_json(value, prefix=prefix), now=NOW, prefix=prefix)
    return {fault.field: fault.message for fault in caught.value.fields}


def nested(levels: int) -> object:
    value: object = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


# --- the canonical form -----------------------------------------------------------------------------------------------


def test_a_package_has_exactly_these_bytes() -> None:
    package = evidence_from_json(WRITTEN)

    assert checked_evidence(package, now=NOW) == CANONICAL == canonical_evidence(package)
    assert rfc8785.dumps(json.loads(CANONICAL)) == CANONICAL
    assert evidence_hash(CANONICAL) == hashlib.sha256(CANONICAL).hexdigest()


def test_the_smallest_package_still_has_artifacts_and_metadata() -> None:
    package = EvidencePackage("1.0.0", NOW, "a.b", Actor("human", "ann"))

    assert checked_evidence(package, now=NOW) == (
        b'{"actor":{"actor_type":"human","id":"ann"},"artifacts":[],"event_type":"a.b","metadata":{},'
        b'"spec_version":"1.0.0","timestamp_utc":"2026-11-24T04:10:00Z"}'
    )


def test_the_canonical_form_is_a_package_with_the_same_form() -> None:
    again = evidence_from_json(strict_json(CANONICAL))

    assert checked_evidence(again, now=NOW) == CANONICAL


METADATA = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53) + 1, 2**53 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        st.lists(st.integers(-5, 5), max_size=3),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(METADATA)
def test_metadata_has_the_same_bytes_over_rest_and_over_grpc(metadata: dict[str, Any]) -> None:
    message = Struct()
    message.update(metadata)
    over_grpc = {key: value_of(value) for key, value in message.fields.items()}

    rest, grpc = (
        checked_evidence(EvidencePackage("1.0.0", NOW, "a.b", Actor("human", "ann"), (), each), now=NOW)
        for each in (metadata, over_grpc)
    )

    assert rest == grpc
    assert rfc8785.dumps(json.loads(rest, parse_int=float)) == rest


def value_of(value: Any) -> object:
    """The Python value of a google.protobuf.Value, every number a float, as a gRPC service sees it."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return value.number_value
    if kind == "list_value":
        return [value_of(each) for each in value.list_value.values]
    return None if kind == "null_value" else MessageToDict(value)


def test_what_is_missing_has_no_canonical_form() -> None:
    with pytest.raises(InvalidArgument) as caught:
        canonical_evidence(EvidencePackage())

    assert [fault.field for fault in caught.value.fields] == ["actor", "timestamp_utc"]


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"spec_version": ""}, "spec_version", "missing"),
        ({"spec_version": "1.0.1"}, "spec_version", "1.0.0"),
        ({"timestamp_utc": None}, "timestamp_utc", "missing"),
        ({"timestamp_utc": "2026-11-24T04:20:00.000001Z"}, "timestamp_utc", "future"),
        ({"timestamp_utc": "9999-01-01T00:00:00Z"}, "timestamp_utc", "future"),
        ({"event_type": ""}, "event_type", "empty"),
        ({"event_type": "deployed"}, "event_type", "dotted"),
        ({"event_type": "ai.Model"}, "event_type", "dotted"),
        ({"event_type": "ai..model"}, "event_type", "dotted"),
        ({"event_type": ".ai.model"}, "event_type", "dotted"),
        ({"event_type": "ai.model\n"}, "event_type", "dotted"),
        ({"event_type": "ai." + "x" * 510}, "event_type", "513 bytes"),
        ({"actor": None}, "actor", "missing"),
        ({"actor": {"id": "a"}}, "actor.actor_type", "empty"),
        ({"actor": {"actor_type": "human"}}, "actor.id", "empty"),
        ({"actor": {"actor_type": "human", "id": "é" * 257}}, "actor.id", "514 bytes"),
        ({"actor": {"actor_type": "human", "id": "a\0"}}, "actor.id", "U+0000"),
        ({"actor": {"actor_type": "h" * 513, "id": "a"}}, "actor.actor_type", "513 bytes"),
        ({"actor": {"actor_type": "human", "id": "a", "auth_provider": "\ud800"}}, "actor.auth_provider", "surrogate"),
        ({"artifacts": [artifact(name="")]}, "artifacts[0].name", "empty"),
        ({"artifacts": [artifact(name="n" * 513)]}, "artifacts[0].name", "513 bytes"),
        ({"artifacts": [artifact(name="evidence-package")]}, "artifacts[0].name", "evidence-package"),
        ({"artifacts": [artifact(), artifact(name="b"), artifact()]}, "artifacts[2].name", "artifacts[0]"),
        ({"artifacts": [artifact(hash_sha256="")]}, "artifacts[0].hash_sha256", "64 hex"),
        ({"artifacts": [artifact(hash_sha256="ab" * 31)]}, "artifacts[0].hash_sha256", "64 hex"),
        ({"artifacts": [artifact(hash_sha256="xy" * 32)]}, "artifacts[0].hash_sha256", "64 hex"),
        ({"artifacts": [artifact(hash_sha256="ab" * 32 + "\n")]}, "artifacts[0].hash_sha256", "64 hex"),
        ({"artifacts": [artifact(uri="s3://\0")]}, "artifacts[0].uri", "U+0000"),
        ({"artifacts": [artifact(name=str(i)) for i in range(1001)]}, "artifacts", "1001 items"),
        ({"metadata": {"a": {"b": [0, float("nan")]}}}, "metadata.a.b[1]", "finite"),
        ({"metadata": {"a": 2**53}}, "metadata.a", "2^53"),
        ({"metadata": {"a": ["\0"]}}, "metadata.a[0]", "U+0000"),
        ({"metadata": {"a\0": 1}}, 'metadata["a\\u0000"]', "U+0000"),
        ({"metadata": {"a": "\udfff"}}, "metadata.a", "surrogate"),
        ({"metadata": {"a": nested(31)}}, "metadata", "32 levels"),
        ({"metadata": {"a": nested(400)}}, "metadata", "32 levels"),
        ({"metadata": {"a": "x" * 262_144}}, "body", "262144"),
    ],
)
def test_a_broken_rule_is_named_by_its_field(change: dict[str, Any], field: str, message: str) -> None:
    found = refusals(written(**change))

    assert list(found) == [field]
    assert message in found[field]


def test_what_is_just_within_the_limits_is_accepted() -> None:
    package = evidence_from_json(
        written(
            timestamp_utc="2026-11-24T04:20:00Z",
            actor={"actor_type": "h" * 512, "id": "é" * 256},
            artifacts=[artifact(name=str(i)) for i in range(1000)],
            metadata={"a": nested(30), "\\u0000": "\\u0000", "big": 1e300},
        )
    )

    assert checked_evidence(package, now=NOW).startswith(b'{"actor"')


def test_every_violation_is_collected_under_the_prefix_of_the_caller() -> None:
    broken = written(spec_version="2", event_type="x", artifacts=[artifact(hash_sha256="?")], metadata={"n": 2**60})

    assert set(refusals(broken, prefix="evidence_packages[3].")) == {
        "evidence_packages[3].spec_version",
        "evidence_packages[3].event_type",
        "evidence_packages[3].artifacts[0].hash_sha256",
        "evidence_packages[3].metadata.n",
    }
    assert list(refusals(written(metadata={"a": "x" * 262_144}), prefix="evidence_package.")) == ["evidence_package"]


def test_a_hostile_package_gets_a_bounded_answer() -> None:
    package = evidence_from_json(written(artifacts=[artifact(name="", hash_sha256="")] * 1000))

    assert len(evidence_violations(package, now=NOW)) == 100


def test_the_clock_skew_is_a_parameter() -> None:
    package = evidence_from_json(written(timestamp_utc="2026-11-24T05:00:00Z"))

    assert evidence_violations(package, now=NOW, skew=timedelta(hours=1)) == []
    assert [fault.field for fault in evidence_violations(package, now=NOW)] == ["timestamp_utc"]


# --- reading JSON -----------------------------------------------------------------------------------------------------


def test_actor_type_may_be_written_as_type() -> None:
    assert evidence_from_json(written(actor={"type": "human", "id": "a"})).actor == Actor("human", "a")
    same = {"type": "human", "actor_type": "human", "id": "a"}
    assert evidence_from_json(written(actor=same)).actor == Actor("human", "a")
    found = refusals(written(actor={"type": "human", "actor_type": "service", "id": "a"}))
    assert list(found) == ["actor.actor_type"]
    assert "stands twice" in found["actor.actor_type"]


def test_lower_camel_case_says_the_same() -> None:
    camel = {
        "specVersion": "1.0.0",
        "timestampUtc": WRITTEN["timestamp_utc"],
        "eventType": WRITTEN["event_type"],
        "actor": {"actorType": "service", "id": "ci@acme", "authProvider": "keycloak"},
        "artifacts": [{"name": "a", "hashSha256": "ab" * 32, "uri": None}],
        "metadata": None,
    }
    package = evidence_from_json(camel)

    assert package.actor == Actor("service", "ci@acme", "keycloak")
    assert package.artifacts == (Artifact("a", "ab" * 32),)
    assert (package.spec_version, package.event_type, package.metadata) == ("1.0.0", WRITTEN["event_type"], {})


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ([], "body", "object"),
        (written(extra=1), "extra", "unknown"),
        (written(actor={"actor_type": "h", "id": "a", "email": "x"}), "actor.email", "unknown"),
        (written(artifacts=[artifact(sha256="x")]), "artifacts[0].sha256", "unknown"),
        (written(actor="ci"), "actor", "object"),
        (written(actor={"actor_type": 1, "id": "a"}), "actor.actor_type", "string"),
        (written(artifacts={}), "artifacts", "array"),
        (written(artifacts=["x"]), "artifacts[0]", "object"),
        (written(artifacts=[artifact(name=["x"])]), "artifacts[0].name", "string"),
        (written(metadata=[]), "metadata", "object"),
        (written(spec_version=1.0), "spec_version", "string"),
        (written(timestamp_utc=1700000000), "timestamp_utc", "string"),
        (written(timestamp_utc="yesterday"), "timestamp_utc", "RFC 3339"),
        (written(timestamp_utc="2026-11-24T04:09:28.0000001Z"), "timestamp_utc", "finer than microseconds"),
        (written(specVersion="2.0.0"), "spec_version", "stands twice"),
    ],
)
def test_a_member_of_another_shape_is_named(value: object, field: str, message: str) -> None:
    found = refusals(value)

    assert list(found) == [field]
    assert message in found[field]


def test_everything_of_another_shape_is_named_at_once() -> None:
    value = written(extra=1, event_type=2, artifacts=[artifact(size=3)], metadata="m")

    assert set(refusals(value, prefix="evidence_package.")) == {
        "evidence_package.extra",
        "evidence_package.event_type",
        "evidence_package.artifacts[0].size",
        "evidence_package.metadata",
    }
