"""What callers of REST see, through a real gateway and a real gRPC server."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import orjson
import pytest

from afdp.errors import (
    AlreadyExists,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from afdp.gateway.app import build_app
from afdp.gateway.config import GatewaySettings
from afdp.gateway.log_proxy import open_log_proxy
from afdp.gateway.upstream import open_upstream

EVIDENCE: dict[str, Any] = {
    "spec_version": "1.0.0",
    "timestamp_utc": "2026-11-24T04:09:28.123456Z",
    "event_type": "ai.model.deployment.completed",
    "actor": {"actor_type": "workload", "id": "ci@acme.example", "auth_provider": ""},
    "artifacts": [{"name": "model.bin", "uri": "", "hash_sha256": "5e" * 32}],
    "metadata": {"accuracy": 0.93, "epochs": 12, "tags": ["prod", None, True], "git": {"dirty": False}},
}


def fields(answer: httpx.Response) -> dict[str, str]:
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == problem["status"] == status, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert problem["type"].startswith("https://afdp.dev/problems/")
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


async def test_a_body_becomes_the_request_message_whole(gateway: httpx.AsyncClient, notary: Any) -> None:
    body = {"evidence_package": EVIDENCE, "wait_for": "logged", "idempotency_key": "k-1", "dedupe": True}

    answer = await gateway.post("/api/v1/evidence/sign", json=body)

    assert answer.status_code == 200
    request = notary.calls[0].request
    assert request.idempotency_key == "k-1"
    assert request.wait_for == 2
    assert request.dedupe is True
    package = request.evidence_package
    assert package.timestamp_utc.seconds == 1795493368
    assert package.timestamp_utc.nanos == 123_456_000
    assert package.artifacts[0].hash_sha256 == "5e" * 32
    assert package.metadata["epochs"] == 12
    assert list(package.metadata["tags"]) == ["prod", None, True]


async def test_camel_case_and_the_actors_type_are_read_too(gateway: httpx.AsyncClient, notary: Any) -> None:
    package = {"specVersion": "1.0.0", "actor": {"type": "human", "authProvider": "oidc"}}

    await gateway.post("/api/v1/evidence/sign", json={"evidencePackage": package, "waitFor": "RECEIPT_STATE_SIGNED"})

    request = notary.calls[0].request
    assert request.evidence_package.actor.actor_type == "human"
    assert request.evidence_package.actor.auth_provider == "oidc"
    assert request.wait_for == 1


async def test_an_answer_prints_every_field(gateway: httpx.AsyncClient, notary: Any) -> None:
    bundle = b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","tlogEntries":[{"logIndex":"0"}]}'
    receipt = notary.message(
        "NotarizationReceipt", evidence_package_hash="5e" * 32, integrated_time=1795493368, state=2, bundle=bundle
    )
    notary.answers["SignEvidence"] = notary.message(
        "SignEvidenceResponse", workflow_id="simple-signing-1", receipt=receipt, status=3
    )

    answer = await gateway.post("/api/v1/evidence/sign", json={"evidence_package": EVIDENCE})

    assert answer.json() == {
        "workflow_id": "simple-signing-1",
        "receipt": {
            "evidence_package_hash": "5e" * 32,
            "rekor_log_id": "",
            "rekor_server_url": "",
            "signature_b64": "",
            "public_key_b64": "",
            "integrated_time": 1795493368,
            "log_index": 0,
            "receipt_id": "",
            "state": "logged",
            "key_id": "",
            "bundle": orjson.loads(bundle),
            "more_bundles": [],
            "anchors": [],
        },
        "status": "completed",
        "error": None,
    }
    assert bundle in answer.content


async def test_query_parameters_fill_the_request(gateway: httpx.AsyncClient, notary: Any) -> None:
    query = {"page_size": "20", "statusFilter": "completed", "start_time": "2026-11-24T05:00:00+01:00"}

    answer = await gateway.get("/api/v1/workflows", params=query)

    assert answer.json() == {"workflows": [], "next_page_token": "", "total_count": 0}
    request = notary.calls[0].request
    assert (request.page_size, request.status_filter) == (20, 3)
    assert request.start_time.seconds == 1795492800


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page_size=ten", "page_size"),
        ("page_size=9999999999", "page_size"),
        ("page_size=1&page_size=2", "page_size"),
        ("page_size=1&pageSize=2", "page_size"),
        ("status_filter=done", "status_filter"),
        ("start_time=yesterday", "start_time"),
        ("start_time=0000-01-01T00:00:00Z", "start_time"),
        ("page_token=%FF", "page_token"),
        ("page_token=%00", "page_token"),
        ("page_token=%zz", "page_token"),
        ("colour=red", "colour"),
    ],
)
async def test_a_bad_query_parameter_is_named(gateway: httpx.AsyncClient, notary: Any, query: str, field: str) -> None:
    answer = await gateway.get(f"/api/v1/workflows?{query}")

    assert_problem(answer, 400, "INVALID_ARGUMENT")
    assert field in fields(answer)
    assert notary.calls == []


@pytest.mark.parametrize("path", ["afdp-notary-key:3", "afdp-notary-key%3A3"])
async def test_a_key_id_may_hold_a_colon(gateway: httpx.AsyncClient, notary: Any, path: str) -> None:
    revoked = await gateway.post(f"/api/v1/keys/{path}:revoke", json={"reason": "retired"})
    affected = await gateway.get(f"/api/v1/keys/{path}/receipts")

    assert revoked.status_code == affected.status_code == 200
    assert [call.method for call in notary.calls] == ["RevokeKey", "ListAffectedReceipts"]
    assert [call.request.key_id for call in notary.calls] == ["afdp-notary-key:3"] * 2


async def test_an_encoded_slash_belongs_to_the_variable(gateway: httpx.AsyncClient, notary: Any) -> None:
    await gateway.get("/api/v1/keys/a%2Fb%20%C3%BC:1/receipts")

    assert notary.calls[0].request.key_id == "a/b ü:1"


async def test_path_and_body_may_not_contradict(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.post("/api/v1/keys/k:1:revoke", json={"key_id": "k:2", "reason": "x"})

    assert_problem(answer, 400, "INVALID_ARGUMENT")
    assert "key_id" in fields(answer)
    assert notary.calls == []


async def test_rotate_is_a_verb_on_the_collection(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.post("/api/v1/keys:rotate", json={"purpose": "evidence"})

    assert answer.json() == {"key": None}
    assert notary.calls[0].request.purpose == 1


@pytest.mark.parametrize(
    ("verb", "path", "word"),
    [
        ("POST", "/api/v1/evidence/sign/approval", "approval workflows"),
        ("POST", "/api/v1/workflows/w/approvals", "approval workflows"),
        ("POST", "/api/v1/workflows/w/cancel", "cancelling"),
    ],
)
async def test_what_is_planned_says_so(
    gateway: httpx.AsyncClient, notary: Any, verb: str, path: str, word: str
) -> None:
    answer = await gateway.request(verb, path, content=b"not even JSON")

    problem = assert_problem(answer, 501, "UNIMPLEMENTED")
    assert word in problem["detail"]
    assert notary.calls == []


async def test_an_unknown_path_is_a_problem(gateway: httpx.AsyncClient) -> None:
    for path in ("/", "/api/v1/nothing", "/api/v1/evidence/", "/log/%2e%2e/metrics", "/api/v1/receipts/a/b"):
        assert_problem(await gateway.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("verb", "path", "allow"),
    [
        ("DELETE", "/api/v1/evidence/sign", "POST"),
        ("GET", "/api/v1/evidence/sign", "POST"),
        ("POST", "/api/v1/receipts/1", "GET, HEAD"),
        ("GET", "/api/v1/keys:rotate", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/log/checkpoint", "GET, HEAD"),
    ],
)
async def test_a_wrong_verb_is_told_the_right_ones(
    gateway: httpx.AsyncClient, verb: str, path: str, allow: str
) -> None:
    answer = await gateway.request(verb, path)

    assert_problem(answer, 405, "UNIMPLEMENTED")
    assert sorted(answer.headers["allow"].split(", ")) == allow.split(", ")


async def test_head_is_get_without_the_body(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.head("/api/v1/keys")

    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0
    assert notary.calls[0].method == "ListKeys"


# --- errors of the notary ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidArgument("no"), 400),
        (NotFound("no such receipt"), 404),
        (AlreadyExists("other evidence has this idempotency key"), 409),
        (PermissionDenied("evidence.create is needed"), 403),
        (Unauthenticated("a token is needed"), 401),
        (ResourceExhausted("the queue is full", retry_after=0.2), 429),
        (Unavailable("Vault is sealed", retry_after=5), 503),
    ],
)
async def test_the_notarys_errors_keep_their_words(
    gateway: httpx.AsyncClient, notary: Any, error: Any, status: int
) -> None:
    notary.answers["GetReceipt"] = error

    answer = await gateway.get("/api/v1/receipts/1")

    assert assert_problem(answer, status, error.code)["detail"] == error.message
    assert answer.headers.get("retry-after") == {0.2: "1", 5: "5", None: None}[error.retry_after]
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_the_fields_that_the_notary_refuses_are_named(gateway: httpx.AsyncClient, notary: Any) -> None:
    path = "evidence_package.artifacts[0].hash_sha256"
    notary.answers["SignEvidence"] = InvalidArgument("not valid", fields=[FieldViolation(path, "must be 64 digits")])

    answer = await gateway.post("/api/v1/evidence/sign", json={"evidence_package": EVIDENCE})

    problem = assert_problem(answer, 400, "INVALID_ARGUMENT")
    assert problem["errors"] == [{"field": path, "message": "must be 64 digits"}]
    assert problem["type"] == "https://afdp.dev/problems/invalid-argument"


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("secret-7f3a"), (grpc.StatusCode.UNKNOWN, "secret-7f3a"), (grpc.StatusCode.INTERNAL, "secret-7f3a")],
)
async def test_what_an_unknown_failure_says_is_not_passed_on(
    gateway: httpx.AsyncClient, notary: Any, failure: Any
) -> None:
    notary.answers["GetReceipt"] = failure

    answer = await gateway.get("/api/v1/receipts/1")

    assert_problem(answer, 500, "INTERNAL")
    assert "secret" not in answer.text


async def test_an_answer_that_cannot_be_read_is_an_internal_error(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["GetReceipt"] = b"\xff\xff\xff"

    assert_problem(await gateway.get("/api/v1/receipts/1"), 500, "INTERNAL")


# --- headers ----------------------------------------------------------------------------------------------------------


async def test_a_well_formed_request_id_is_kept_and_forwarded(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.get("/api/v1/keys", headers={"X-Request-ID": "build-4711.retry_2"})

    assert answer.headers["x-request-id"] == "build-4711.retry_2"
    assert notary.calls[0].metadata["x-request-id"] == "build-4711.retry_2"


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "x\u00fc", "<script>"])
async def test_a_malformed_request_id_is_replaced(gateway: httpx.AsyncClient, given: str) -> None:
    answer = await gateway.get("/nothing", headers={"X-Request-ID": given.encode()})

    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 36


async def test_credentials_and_trace_go_on_and_nothing_else(gateway: httpx.AsyncClient, notary: Any) -> None:
    sent = {"Authorization": "Bearer abc.def", "Cookie": "session=1", "X-Forwarded-For": "10.0.0.1"}

    await gateway.get("/api/v1/keys", headers=sent)

    metadata = notary.calls[0].metadata
    assert metadata["authorization"] == "Bearer abc.def"
    assert set(metadata) <= {"authorization", "x-request-id", "traceparent", "user-agent"}
    assert "httpx" not in metadata.get("user-agent", "")


async def test_headers_that_the_notary_decides_are_passed_on_and_no_others(
    gateway: httpx.AsyncClient, notary: Any
) -> None:
    limit = '"client";r=0;t=7'
    notary.trailing = (("ratelimit", limit), ("www-authenticate", "Bearer error=x"), ("set-cookie", "a=b"))
    good = await gateway.get("/api/v1/keys")
    notary.answers["ListKeys"] = Unauthenticated("the credentials are missing or not valid", retry_after=3)
    refused = await gateway.get("/api/v1/keys")
    elsewhere = await gateway.get("/health")

    assert (good.status_code, refused.status_code) == (200, 401)
    for answer in (good, refused):
        assert answer.headers.get_list("ratelimit") == [limit]
        assert answer.headers.get_list("www-authenticate") == ["Bearer error=x"]
        assert "set-cookie" not in answer.headers
    assert refused.headers["retry-after"] == "3"
    assert "ratelimit" not in elsewhere.headers


async def test_the_callers_trace_is_continued(gateway: httpx.AsyncClient, notary: Any) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    await gateway.get("/api/v1/keys", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})

    assert notary.calls[0].metadata["traceparent"].split("-")[1] == trace


async def test_the_deadline_travels_with_the_call(gateway: httpx.AsyncClient, notary: Any) -> None:
    await gateway.get("/api/v1/keys")

    assert 25 < notary.calls[0].seconds_left < 31  # gRPC rounds it


async def test_the_idempotency_key_may_be_a_header(gateway: httpx.AsyncClient, notary: Any) -> None:
    body = {"evidence_package": EVIDENCE}

    await gateway.post("/api/v1/evidence/sign", json=body, headers={"Idempotency-Key": "k-1"})
    await gateway.post(
        "/api/v1/evidence/sign", json={**body, "idempotency_key": "k-1"}, headers={"Idempotency-Key": "k-1"}
    )

    assert [call.request.idempotency_key for call in notary.calls] == ["k-1", "k-1"]


@pytest.mark.parametrize("header", ["k-2", "", "k\u00fc"])
async def test_a_bad_or_contradicting_idempotency_key_is_refused(
    gateway: httpx.AsyncClient, notary: Any, header: str
) -> None:
    body = {"evidence_package": EVIDENCE, "idempotencyKey": "k-1"}

    answer = await gateway.post("/api/v1/evidence/sign", json=body, headers={"Idempotency-Key": header.encode()})

    assert_problem(answer, 400, "INVALID_ARGUMENT")
    assert "idempotency_key" in fields(answer)
    assert notary.calls == []


async def test_every_answer_has_the_security_headers(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["GetReceipt"] = NotFound("no such receipt")
    answers = {path: await gateway.get(path) for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json")}
    for path in ("/nothing", "/api/v1/receipts/1", "/log/checkpoint", "/api/v2/tile/0/000", "/log/../health"):
        answers[path] = await gateway.get(path)
    answers["wrong verb"] = await gateway.delete("/health")
    answers["too much"] = await gateway.get("/health", headers={"X": "y" * 40_000})
    answers["no request"] = await gateway.get("/health", headers={"Host": "a,b"})

    statuses = {answer.status_code for answer in answers.values()}
    assert statuses == {200, 400, 404, 405, 431, 503}
    for name, answer in answers.items():
        headers = answer.headers
        assert headers["x-content-type-options"] == "nosniff", name
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy, name
        assert headers["referrer-policy"] == "no-referrer", name
        assert headers["cross-origin-opener-policy"] == "same-origin", name
        assert headers["cross-origin-resource-policy"] == "same-origin", name
        assert "camera=()" in headers["permissions-policy"], name
        assert headers["x-request-id"], name
        assert not {"server", "access-control-allow-origin", "strict-transport-security"} & set(headers), name
        cached = "max-age" in headers["cache-control"]
        assert cached == (name in ("/docs", "/openapi.json")), name


async def test_pages_of_other_origins_may_call_only_where_that_is_set(start_gateway: Any, notary: Any) -> None:
    ours, theirs = {"Origin": "https://console.example"}, {"Origin": "https://evil.example"}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with start_gateway(notary_address=notary.address, cors_origins="https://console.example") as client:
        asked = await client.options("/api/v1/evidence/sign", headers={**ours, **preflight})
        refused = await client.options("/api/v1/evidence/sign", headers={**theirs, **preflight})
        shown, hidden = [await client.get("/api/v1/keys", headers=origin) for origin in (ours, theirs)]
    async with start_gateway(notary_address=notary.address) as client:
        closed = await client.options("/api/v1/evidence/sign", headers={**ours, **preflight})

    assert (asked.status_code, refused.status_code, closed.status_code) == (200, 400, 405)
    for answer in (asked, shown):
        assert answer.headers["access-control-allow-origin"] == "https://console.example"
        assert "access-control-allow-credentials" not in answer.headers
    assert "retry-after" in shown.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in {*refused.headers, *hidden.headers, *closed.headers}


async def test_browsers_that_came_over_tls_are_told_to_stay_there(api: Any, notary: Any) -> None:
    settings = GatewaySettings(notary_address=notary.address, hsts_seconds=600)
    async with open_upstream(settings.notary_address, 2**20) as upstream, open_log_proxy(settings) as log:
        transport = httpx.ASGITransport(build_app(settings, api, upstream, log))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("https://x/health")).headers["strict-transport-security"] == "max-age=600"
            assert "strict-transport-security" not in (await client.get("http://x/health")).headers
