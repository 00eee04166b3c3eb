"""Audit events as OCSF, held to the schemas that its makers publish (the package `ocsf-json-schema` carries them)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from afdp.audit.event import MOST_CHARACTERS, RecordedEvent
from afdp.audit.ocsf import SCHEMA_VERSION, ocsf_json, to_ocsf
from afdp.errors import DataLoss

TIME = datetime(2026, 11, 24, 21, 30, 0, 250_000, tzinfo=UTC)

LET_IN = RecordedEvent(
    time=TIME,
    step="authorization",
    result="allow",
    rpc="SignEvidence",
    permission="evidence.create",
    issuer="https://issuer.example",
    subject="ci@acme",
    tenant="acme",
    method="oidc",
    resource="evidence:" + "ab" * 32,
    policies=("roles", "hours"),
    policy_hash="cd" * 32,
    address="192.0.2.7",
    request_id="req-1",
    sequence=42,
)
REFUSED = replace(LET_IN, result="deny", reason="outside of hours", rpc="GetEvidence", permission="evidence.read")
UNKNOWN = RecordedEvent(
    TIME, "authentication", "deny", "SignEvidence", reason="expired", address="2001:db8::1", count=9
)
IN_DOUBT = replace(UNKNOWN, result="error", reason="the issuer's keys cannot be fetched", address="", count=1)
LIMITED = replace(LET_IN, step="limit", result="deny", reason="100 calls a second", policies=())
ROTATED = replace(LET_IN, rpc="RotateKey", permission="keys.admin", resource="key:afdp-evidence")
REVOKED = replace(ROTATED, rpc="RevokeKey", result="deny", reason="it is the last one", policies=())
INTENDED = replace(ROTATED, phase="intent")
BEGUN = replace(INTENDED, resource="")
HELD = replace(LET_IN, rpc="PlaceHold", permission="evidence.hold", resource="hold:case-7", policies=())
LISTED = replace(LET_IN, rpc="ListKeys", permission="keys.admin", resource="", policies=())
FAILED = replace(LET_IN, step="act", result="error", phase="outcome", reason="the caller went away", policies=())
BY_ITSELF = replace(LET_IN, method="service", subject="key-lifecycle", issuer="afdp-notary", address="")
ALL = [LET_IN, REFUSED, UNKNOWN, IN_DOUBT, LIMITED, ROTATED, REVOKED, INTENDED, BEGUN, HELD, LISTED, FAILED, BY_ITSELF]


@cache
def validator(version: str, class_uid: int) -> Draft202012Validator:
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version))
    name = schemas.lookup_class_name_from_uid(class_uid)
    return Draft202012Validator(schemas.get_class_schema(name, ["security_control"]))


def faults(told: dict[str, Any], version: str = SCHEMA_VERSION) -> list[str]:
    return [error.message for error in validator(version, told["class_uid"]).iter_errors(told)]


@pytest.mark.parametrize("version", [SCHEMA_VERSION, "1.8.0"])
@pytest.mark.parametrize("event", ALL, ids=lambda each: f"{each.step}-{each.result}-{each.rpc}")
def test_every_kind_of_event_is_valid_by_the_published_schema(event: RecordedEvent, version: str) -> None:
    told = orjson.loads(ocsf_json(event))

    assert faults(told, version) == []
    assert told["metadata"]["version"] == SCHEMA_VERSION


@pytest.mark.parametrize("member", ["metadata", "time", "severity_id", "type_uid", "actor", "api", "src_endpoint"])
def test_the_published_schema_refuses_an_event_that_lacks_what_its_class_requires(member: str) -> None:
    told = to_ocsf(LET_IN)
    del told[member]

    assert faults(told)


def test_the_published_schema_refuses_members_that_it_does_not_know() -> None:
    assert faults({**to_ocsf(LET_IN), "colour": "red"})
    assert faults({**to_ocsf(LET_IN), "severity_id": 7})


texts = st.text(st.characters(codec="utf-8"), max_size=40)


@settings(deadline=None)
@given(
    st.builds(
        RecordedEvent,
        time=st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
        step=st.sampled_from(["authentication", "limit", "authorization", "something new"]),
        result=st.sampled_from(["allow", "deny", "error", "something new"]),
        rpc=texts | st.sampled_from(["RotateKey", "EraseSubject", "PlaceHold", "ReleaseHold"]),
        permission=texts | st.just("keys.admin"),
        reason=texts,
        issuer=texts,
        subject=texts,
        tenant=texts,
        method=texts,
        resource=texts,
        policies=st.lists(texts, max_size=3).map(tuple),
        policy_hash=texts,
        address=texts | st.ip_addresses().map(str),
        request_id=texts,
        phase=st.sampled_from(["", "intent", "outcome"]),
        count=st.integers(1, 10**9),
        sequence=st.integers(0, 2**53),
        uid=texts,
        further=st.dictionaries(texts, texts, max_size=2),
    )
)
def test_whatever_is_on_record_makes_a_valid_event(event: RecordedEvent) -> None:
    assert faults(orjson.loads(ocsf_json(event))) == []


@pytest.mark.parametrize(
    ("event", "class_uid", "type_uid", "status", "action", "severity"),
    [
        (LET_IN, 6003, 600301, "Success", "Allowed", "Informational"),
        (REFUSED, 6003, 600302, "Failure", "Denied", "Medium"),
        (UNKNOWN, 3002, 300201, "Failure", "Denied", "Low"),
        (IN_DOUBT, 3002, 300201, "Failure", "Denied", "High"),
        (LIMITED, 6003, 600301, "Failure", "Denied", "Low"),
        (ROTATED, 3004, 300403, "Success", "Allowed", "Low"),
        (REVOKED, 3004, 300409, "Failure", "Denied", "High"),
        (FAILED, 6003, 600301, "Failure", "Denied", "Medium"),
        (INTENDED, 3004, 300403, "Intended", "Allowed", "Low"),
        (BEGUN, 3004, 300403, "Intended", "Allowed", "Low"),
        (HELD, 3004, 300401, "Success", "Allowed", "Low"),
        (LISTED, 6003, 600302, "Success", "Allowed", "Informational"),
    ],
)
def test_an_event_has_the_class_of_what_was_done(
    event: RecordedEvent, class_uid: int, type_uid: int, status: str, action: str, severity: str
) -> None:
    told = to_ocsf(event)

    assert (told["class_uid"], told["type_uid"]) == (class_uid, type_uid)
    assert (told["status"], told["action"], told["severity"]) == (status, action, severity)


def test_an_event_says_who_wanted_what_from_where() -> None:
    told = to_ocsf(REFUSED)

    assert told["time"] == 1795555800250
    assert told["actor"]["user"]["uid"] == "ci@acme"
    assert told["actor"]["session"] == {"issuer": "https://issuer.example"}
    assert told["api"] == {
        "operation": "GetEvidence",
        "service": {"name": "afdp.notary.v1.NotaryService"},
        "request": {"uid": "req-1"},
    }
    assert told["resources"] == [{"uid": "ab" * 32, "type": "evidence"}]
    assert told["src_endpoint"] == {"ip": "192.0.2.7"}
    assert told["status_detail"] == "outside of hours"
    assert told["metadata"]["tenant_uid"] == "acme"
    assert told["metadata"]["sequence"] == 42
    assert told["authorizations"][1] == {"decision": "deny", "policy": {"name": "hours", "version": "cd" * 32}}


def test_an_act_upon_a_thing_says_which() -> None:
    assert to_ocsf(ROTATED)["entity"] == {"uid": "afdp-evidence", "type": "key", "type_id": 99}
    assert to_ocsf(BEGUN)["entity"] == {"name": "unknown", "type": "key", "type_id": 99}
    assert to_ocsf(HELD)["entity"] == {"uid": "case-7", "type": "hold", "type_id": 99}


def test_what_is_told_together_says_how_many_there_were() -> None:
    assert to_ocsf(UNKNOWN)["count"] == 9
    assert to_ocsf(UNKNOWN)["user"]["name"] == "unknown"
    assert to_ocsf(UNKNOWN)["src_endpoint"] == {"ip": "2001:db8::1"}


def test_an_event_is_read_from_what_is_on_record() -> None:
    recorded = orjson.dumps(
        {
            "time": "2026-11-24T21:30:00.250000Z",
            "step": "authorization",
            "result": "allow",
            "rpc": "SignEvidence",
            "permission": "evidence.create",
            "subject": "ci@acme",
            "policies": ["roles"],
            "count": 3,
            "last_rpc": "GetEvidence",
            "outcome": {"records": 2},
        }
    )

    event = RecordedEvent.parse(recorded, 7, "seven")

    assert (event.time, event.subject, event.policies, event.count) == (TIME, "ci@acme", ("roles",), 3)
    assert (event.sequence, event.uid) == (7, "seven")
    assert event.further == {"last_rpc": "GetEvidence", "outcome": '{"records":2}'}
    assert not event.cut


def test_a_text_that_is_too_long_is_cut_and_that_is_said() -> None:
    recorded = {
        "time": "2026-11-24T21:30:00Z",
        "step": "limit",
        "result": "deny",
        "reason": "a" * 5000,
        "x": "b" * 5000,
    }

    event = RecordedEvent.parse(orjson.dumps(recorded))

    assert len(event.reason) == len(event.further["x"]) == MOST_CHARACTERS
    assert event.reason.endswith("a…")
    assert to_ocsf(event)["metadata"]["labels"] == ["truncated"]


@pytest.mark.parametrize("recorded", [b"", b"[]", b"{}", b'{"time": 5, "step": "a", "result": "b"}', b'{"time": "x"}'])
def test_what_is_no_event_is_told_as_data_loss(recorded: bytes) -> None:
    with pytest.raises(DataLoss, match="audit event 3 is none"):
        RecordedEvent.parse(recorded, 3)
