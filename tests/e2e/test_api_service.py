"""What stands around every call: readiness, request IDs, metrics, and a word on what is not built yet."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from afdp.embedded.process import LOOPBACK
from afdp.embedded.stack import METRICS_PORTS, PORTS, Stack
from afdp.rpc.descriptors import service_methods
from afdp.version import VERSION
from tests.e2e.answers import SIGN, get, problem, sign
from tests.e2e.evidence import package

UUID_V7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

NOT_THERE = "approval-signing-019aa6c5-8d3c-7cb1-9d0e-0d9e4b7a3c11"
PLANNED = [
    ("POST", "/api/v1/evidence/sign/approval", "approval workflows"),
    ("POST", f"/api/v1/workflows/{NOT_THERE}/approvals", "approval workflows"),
    ("POST", f"/api/v1/workflows/{NOT_THERE}/cancel", "cancelling"),
]


async def test_a_stack_that_runs_is_ready_for_reading_and_writing(rest: httpx.AsyncClient) -> None:
    for parameters in ({}, {"writes": "true"}):
        found = await get(rest, "/ready", **parameters)

        assert (found["status"], found["version"]) == ("healthy", VERSION)
        assert [each["name"] for each in found["dependencies"]] == ["signer", "transparency", "metadata"]
        assert all(each["healthy"] and each["error"] == "" for each in found["dependencies"])
    assert (await get(rest, "/health"))["status"] == "healthy"


@pytest.mark.parametrize(("verb", "path", "words"), PLANNED)
async def test_what_is_planned_answers_501_and_says_so(
    rest: httpx.AsyncClient, verb: str, path: str, words: str
) -> None:
    answer = await rest.request(verb, path, json={} if verb == "POST" else None)

    assert problem(answer, 501, "UNIMPLEMENTED") == {}
    assert words in answer.json()["detail"]


async def test_what_is_planned_is_absent_from_the_document(rest: httpx.AsyncClient) -> None:
    document = await get(rest, "/openapi.json")

    named = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    methods = service_methods("afdp.notary.v1.NotaryService")
    assert named.isdisjoint(method.name for method in methods if method.planned)
    # The second is served under /trust/, the third is how a front calls for many.
    no_rest = {"SignEvidenceStream", "GetTrustFile", "AddLogEntries"}
    built = {method.name for method in methods if not method.planned} - no_rest
    assert built <= named


ANSWERS = [
    ("GET", "/health", None),
    ("GET", "/ready", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/docs", None),
    ("GET", "/log/checkpoint", None),
    ("GET", "/nothing/here", None),
    ("DELETE", SIGN, None),
    ("POST", SIGN, b"{"),
    ("POST", "/api/v1/timestamp", b"{}"),
    ("GET", "/api/v1/workflows", None),
]


@pytest.mark.parametrize(("verb", "path", "body"), ANSWERS)
async def test_every_answer_carries_a_request_id_the_callers_where_it_is_well_formed(
    rest: httpx.AsyncClient, verb: str, path: str, body: bytes | None
) -> None:
    headers = {"content-type": "application/json"} if body is not None else {}

    made = await rest.request(verb, path, content=body, headers=headers)
    own = await rest.request(verb, path, content=body, headers={**headers, "x-request-id": "my-id.1_2"})
    bad = await rest.request(verb, path, content=body, headers={**headers, "x-request-id": "a b<script>"})

    assert made.status_code < 600
    assert made.status_code == own.status_code == bad.status_code
    assert UUID_V7.fullmatch(made.headers["x-request-id"])
    assert own.headers["x-request-id"] == "my-id.1_2"
    assert UUID_V7.fullmatch(bad.headers["x-request-id"])
    for answer in (made, own, bad):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers.get_list("x-request-id")) == 1


async def test_a_verb_that_a_path_does_not_take_is_told_which_it_takes(rest: httpx.AsyncClient) -> None:
    answer = await rest.delete("/api/v1/evidence")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_requests_are_counted_under_the_names_that_dashboards_use(rest: httpx.AsyncClient) -> None:
    labels = {"method": "POST", "endpoint": SIGN, "code": "200"}
    refused = {**labels, "code": "400"}
    before = await _samples(rest)

    await sign(rest)
    problem(await rest.post(SIGN, json={"evidence_package": package(spec_version="9")}), 400, "INVALID_ARGUMENT")

    after = await _samples(rest)
    for wanted in (labels, refused):
        key = ("http_requests_total", frozenset(wanted.items()))
        assert after[key] == before.get(key, 0) + 1
    bucket = frozenset({"method": "POST", "endpoint": SIGN, "le": "+Inf"}.items())
    key = ("http_request_duration_seconds_bucket", bucket)
    assert after[key] == before.get(key, 0) + 2
    assert any(name.startswith("afdp_gateway_") for name, _ in after)


async def test_paths_that_are_not_known_share_one_series(rest: httpx.AsyncClient) -> None:
    for _ in range(3):
        await rest.get(f"/{uuid.uuid4()}")
        await rest.get(f"/api/v1/receipts/{uuid.uuid4()}")

    endpoints = {dict(labels)["endpoint"] for name, labels in await _samples(rest) if name == "http_requests_total"}
    assert {"other", "/api/v1/receipts/{receipt_id}"} <= endpoints
    assert not any(re.search(r"[0-9a-f]{8}-", endpoint) for endpoint in endpoints)


@pytest.mark.parametrize("service", METRICS_PORTS)
async def test_each_service_serves_metrics_of_its_own(rest: httpx.AsyncClient, stack: Stack, service: str) -> None:
    await sign(rest)
    offset = stack.port("gateway") - PORTS["gateway"]

    text = (await rest.get(f"http://{LOOPBACK}:{METRICS_PORTS[service] + offset}/metrics")).raise_for_status().text

    samples = dict(_parsed(text))
    calls = {
        dict(labels)["method"]: value for (name, labels), value in samples.items() if name == "afdp_grpc_requests_total"
    }
    wanted = {"signer": "SignStatements", "transparency": "Append", "metadata": "Prepare", "notary": "SignEvidence"}
    assert calls[wanted[service]] > 0


async def _samples(rest: httpx.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return dict(_parsed((await rest.get("/metrics")).raise_for_status().text))


def _parsed(text: str) -> Iterator[tuple[tuple[str, frozenset[tuple[str, str]]], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), sample.value
