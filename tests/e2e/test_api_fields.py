"""Every field of every request over REST, spoilt in every way: refused by its name, at once, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from google.protobuf.descriptor import FieldDescriptor

from afdp.gateway.descriptors import load_api
from tests.e2e.answers import SIGN, problem
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, PLACES, TIMEOUT, UUID, Place, message, request

pytestmark = pytest.mark.usefixtures("nothing_is_written")


async def test_the_requests_here_have_every_field_of_the_api() -> None:
    for name, place in PLACES:
        whole = message(BUILT[name], request(name))
        held = dict(place.within(whole).ListFields())
        assert place.field in held or place.path.endswith((".uri", ".auth_provider", "all_tenants", "erasure_id")), (
            f"{name}: {place.path}"
        )


# --- wrong types over REST --------------------------------------------------------------------------------------------

RULES = {method.name: method.rules[0] for method in load_api().methods if method.rules}

STRING = [7, 1.5, True, [], {}, ["x"]]
INTEGER = [1.5, "1.5", True, [], {}, 2**31, -(2**31) - 1, "seven"]
WRONG: dict[str, list[Any]] = {
    "google.protobuf.Timestamp": [
        *(7, True, [], {}, "", "yesterday", "2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z"),
        *("2026-11-01T12:00:00.0000001Z", "2026-11-01", "2026-11-01T25:00:00Z", "x" * 100_000),
    ],
    "google.protobuf.Struct": [7, "x", True, [], [{}]],
    "message": [7, "x", True, [], [{}]],
    "repeated": [7, "x", True, {}, [None], [7], ["x"], [[]]],
    "enum": [7, 1.0, True, [], {}, "nonsense", "WORKFLOW_STATUS_UNSPECIFIEDLY", "Completed "],
}
BY_TYPE = {
    FieldDescriptor.TYPE_STRING: STRING,
    FieldDescriptor.TYPE_BOOL: [0, 1, "true", "yes", [], {}],
    FieldDescriptor.TYPE_INT32: INTEGER,
}


def wrong_values(field: FieldDescriptor) -> list[Any]:
    if field.is_repeated:
        return WRONG["repeated"]
    if field.message_type is not None:
        return WRONG.get(field.message_type.full_name, WRONG["message"])
    return WRONG["enum"] if field.enum_type is not None else BY_TYPE[field.type]


IN_BODY = [
    pytest.param(name, place, id=f"{name} {place.path}")
    for name, place in PLACES
    if name in RULES and RULES[name].body == "*" and f"{{{place.path}}}" not in RULES[name].template
]


@pytest.mark.parametrize(("name", "place"), IN_BODY)
async def test_a_member_of_the_wrong_type_is_named(rest: httpx.AsyncClient, name: str, place: Place) -> None:
    rule = RULES[name]
    path = rule.template.replace("{key_id}", "nobody:1")
    for value in wrong_values(place.field):
        body = {key: member for key, member in request(name).items() if f"{{{key}}}" not in rule.template}
        place.within(body)[place.field.name] = value

        answer = await rest.request(rule.verb, path, json=body, timeout=TIMEOUT)

        named = [field.split("[")[0] for field in problem(answer, 400, "INVALID_ARGUMENT")]
        assert named == [place.path.split("[")[0]], (value, answer.text)
        assert place.path in answer.text


@pytest.mark.parametrize(("name", "place"), IN_BODY)
async def test_a_member_that_stands_twice_or_is_not_known_is_named(
    rest: httpx.AsyncClient, name: str, place: Place
) -> None:
    rule = RULES[name]
    path = rule.template.replace("{key_id}", "nobody:1")
    member = place.field.name
    body = {key: value for key, value in request(name).items() if f"{{{key}}}" not in rule.template}
    holder = place.within(body)
    value = holder.pop(member, "")
    holder["@"] = "@"
    text = json.dumps(body)
    headers = {"content-type": "application/json"}
    known = f'"{member}": {json.dumps(value)}'
    spoilt = {
        place.path: f"{known}, {known}",
        f"{place.holder}.{member}x".removeprefix("body."): f'{known}, "{member}x": 1',
    }
    for expected, members in spoilt.items():
        answer = await rest.post(path, content=text.replace('"@": "@"', members), headers=headers, timeout=TIMEOUT)
        assert list(problem(answer, 400, "INVALID_ARGUMENT")) == [expected], answer.text


# --- parameters -------------------------------------------------------------------------------------------------------

IN_QUERY = [
    pytest.param(name, place, id=f"{name} {place.path}")
    for name, place in PLACES
    if name in RULES and RULES[name].body == "" and f"{{{place.path}}}" not in RULES[name].template
]
TEXTS = {
    "page_size": ["-1", "1001", "10001", "1.5", "x", "", "9" * 30, "0x10"],
    "page_token": ["AAAA", "ü", "%00", "a" * 70_00],
    "evidence_package_hash": ["x", "5e" * 33, "5g" * 32, "%ff", "%00"],
    "artifact_hash": ["x", "5e" * 33, "5g" * 32, "%ff", "%00"],
    "event_type": ["a" * 513, "%00", "%ff", "%zz"],
    "actor_id": ["%C3%BC" * 257, "%00", "%ff", "%e"],
    "start_time": ["yesterday", "7", "2026-13-01T00:00:00Z", "%00"],
    "end_time": ["yesterday", "7", "2026-13-01T00:00:00Z", "%00"],
    "since": ["yesterday", "7", "2026-13-01T00:00:00Z", "%00"],
    "after": ["x", "%00", UUID.upper(), UUID],
    "status_filter": ["nonsense", "3", "", "completed%00"],
    "writes": ["yes", "2", "", "TRUE", "%00"],
    "actor": ["a" * 513, "%00", "%ff"],
    "resource": ["a" * 513, "%00", "%ff"],
    "result": ["nonsense", "ALLOW", "deny%00"],
    "after_sequence": ["-1", "x", "", "9" * 30],
    "after_number": ["-1", "x", "", "9" * 30],
    "actor_type": ["a" * 513, "%00", "%ff"],
    "submitter": ["a" * 513, "%00", "%ff"],
    "key_id": ["a" * 513, "%00", "%ff"],
    "log_origin": ["a" * 513, "%00", "%ff"],
    "log_index": ["-1", "x", "", "9" * 30],
    "metadata": ["x", "=x", "salary=1", "%00", "%ff"],
    "oldest_first": ["yes", "2", "", "TRUE", "%00"],
    "format": ["nonsense", "7", "csv%00"],
    "all_tenants": ["yes", "2", "", "TRUE", "%00"],
    "include_released": ["yes", "2", "", "TRUE", "%00"],
    "cursor": ["AAAA", "ü", "%00", "a" * 70_00],
}
PATH_TEXTS = {
    "evidence_package_hash": ["x", "5e" * 33, "%00", "%ff", "%2e%2e"],
    "workflow_id": ["x", UUID, f"simple-signing-{UUID}%00", f"simple-signing-{UUID.upper()}", "%ff", "simple-signing-"],
    "receipt_id": ["x", UUID[:-1], f"{UUID}%0a", UUID.upper(), "%F0%9F%98%80", "%c3%28"],
    "key_id": ["%00", "a" * 513, "%ff"],
    "erasure_id": ["x", "AB" * 16, "ab" * 17, "%00", "%ff"],
}


@pytest.mark.parametrize(("name", "place"), IN_QUERY)
async def test_a_bad_query_parameter_is_named(rest: httpx.AsyncClient, name: str, place: Place) -> None:
    path = RULES[name].template.replace("{key_id}", "afdp-file-key:1")
    parameter = place.path
    # An export's pages may be larger than a list's.
    allowed = {"1001"} if name == "ExportAffectedReceipts" else set()
    bad = [f"{parameter}={text}" for text in TEXTS[parameter] if text not in allowed]
    good = "5e" * 32 if parameter.endswith("_hash") else "a.b"
    twice = [] if place.field.is_repeated else [f"{parameter}={good}&{parameter}={good}"]
    for query in [*bad, *twice]:
        answer = await rest.get(f"{path}?{query}", timeout=TIMEOUT)
        named = problem(answer, 400, "INVALID_ARGUMENT")
        assert parameter in {each.removesuffix("[0]") for each in named}, query


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.body == "" and name in BUILT])
async def test_parameters_that_are_not_known_and_bodies_are_refused(rest: httpx.AsyncClient, name: str) -> None:
    path = RULES[name].template
    for variable, value in request(name).items():
        path = path.replace(f"{{{variable}}}", str(value))

    unknown = await rest.get(f"{path}?nonsense=1", timeout=TIMEOUT)
    with_body = await rest.request("GET", path, json={}, timeout=TIMEOUT)

    assert list(problem(unknown, 400, "INVALID_ARGUMENT")) == ["nonsense"]
    assert list(problem(with_body, 400, "INVALID_ARGUMENT")) == ["body"]


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        (rule.template, variable)
        for name, rule in RULES.items()
        for variable in PATH_TEXTS
        if name in BUILT and f"{{{variable}}}" in rule.template
    ],
)
async def test_a_bad_path_variable_is_named(rest: httpx.AsyncClient, path: str, variable: str) -> None:
    for text in PATH_TEXTS[variable]:
        url = path.replace(f"{{{variable}}}", text)
        body = {"reason": "r"} if path.endswith(":revoke") else None
        answer = await rest.request("POST" if body else "GET", url, json=body, timeout=TIMEOUT)
        assert list(problem(answer, 400, "INVALID_ARGUMENT")) == [variable], url


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"[]", b"null", b'"x"', b"7", b"{", b"{}}", b'{"evidence_package": {}', b"{'a': 1}", b'{"a": 1,}'),
        *(b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{}\x00", b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        *(b'{"metadata": NaN}', b"\x00" * 10, b"{}{}"),
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
async def test_a_body_that_is_no_json_object_is_refused(rest: httpx.AsyncClient, body: bytes) -> None:
    answer = await rest.post(SIGN, content=body, headers={"content-type": "application/json"}, timeout=TIMEOUT)

    assert problem(answer, 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-protobuf"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json, application/json"},
        {"content-type": "application/jsonx"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_a_body_of_another_kind_is_refused(rest: httpx.AsyncClient, headers: dict[str, str]) -> None:
    content = json.dumps({"evidence_package": package()}).encode()

    answer = await rest.post(SIGN, content=content, headers=headers, timeout=TIMEOUT)

    problem(answer, 415, "INVALID_ARGUMENT")


async def test_a_body_over_the_limit_is_refused_whether_its_length_is_said_or_not(rest: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(18):
            yield b" " * 1024 * 1024

    said = await rest.post(SIGN, content=b" " * 18 * 1024 * 1024, headers=headers, timeout=TIMEOUT)
    unsaid = await rest.post(SIGN, content=chunks(), headers=headers, timeout=TIMEOUT)

    for answer in (said, unsaid):
        assert list(problem(answer, 413, "INVALID_ARGUMENT")) == ["body"]
