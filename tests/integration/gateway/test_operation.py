"""Liveness, readiness, outages, metrics, logs, the log's read path, the API's description, the process itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openapi_spec_validator
import pytest
from prometheus_client.parser import text_string_to_metric_families

from afdp.errors import Unavailable


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ready(notary: Any, status: str, **errors: str) -> Any:
    names = ("signer", "transparency", "metadata")
    dependencies = [{"name": name, "healthy": name not in errors, "error": errors.get(name, "")} for name in names]
    return notary.message("HealthResponse", status=status, version="0.1.0", dependencies=dependencies)


async def test_ready_says_what_it_depends_on(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["HealthCheck"] = ready(notary, "healthy")

    answer = await gateway.get("/ready")

    assert answer.status_code == 200
    assert answer.json()["status"] == "healthy"
    assert answer.json()["dependencies"][0] == {"name": "signer", "healthy": True, "response_time_ms": 0, "error": ""}
    assert notary.calls[0].seconds_left < 5


async def test_reads_are_ready_while_writes_are_not(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["HealthCheck"] = ready(notary, "degraded", signer="Vault is sealed")

    reads, writes = await gateway.get("/ready"), await gateway.get("/ready?writes=1")

    assert reads.status_code == 200
    assert reads.json()["status"] == "degraded"
    assert writes.status_code == 503
    assert writes.json()["code"] == "UNAVAILABLE"
    assert "signer: Vault is sealed" in writes.json()["detail"]
    assert "retry-after" in writes.headers
    assert [call.request.writes for call in notary.calls] == [False, True]


@pytest.mark.parametrize("said", ["unhealthy", "error"])
async def test_what_cannot_read_is_not_ready(gateway: httpx.AsyncClient, notary: Any, said: str) -> None:
    away = Unavailable("metadata is away", retry_after=2)
    notary.answers["HealthCheck"] = away if said == "error" else ready(notary, said, metadata="away")

    answer = await gateway.get("/ready")

    assert answer.status_code == 503
    assert "metadata" in answer.json()["detail"]


async def test_without_a_notary_it_lives_and_says_at_once_that_it_is_not_ready(start_gateway: Any) -> None:
    async with start_gateway(notary_address=f"127.0.0.1:{free_port()}") as client:
        for path in ("/ready", "/api/v1/keys"):
            async with asyncio.timeout(20):
                answer = await client.get(path)
            assert answer.status_code == 503
            assert answer.json()["detail"] == "notary cannot be reached"
            assert answer.headers["retry-after"] == "1"
        health = await client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "healthy"


async def test_a_notary_that_returns_is_found_again(start_gateway: Any, notary: Any) -> None:
    other, port = type(notary)(notary.api), free_port()
    async with start_gateway(notary_address=f"127.0.0.1:{port}") as client:
        for _ in range(2):
            async with other.running(port):
                async with asyncio.timeout(30):
                    while (await client.get("/api/v1/keys")).status_code != 200:
                        pass
            assert (await client.get("/api/v1/keys")).status_code == 503


async def test_a_notary_that_does_not_answer_is_a_timeout(start_gateway: Any, notary: Any) -> None:
    notary.answers["ListKeys"] = notary.answers["HealthCheck"] = asyncio.Event()
    times = {"request_timeout_seconds": 0.3, "ready_timeout_seconds": 0.1}
    async with start_gateway(notary_address=notary.address, **times) as client:
        for path in ("/api/v1/keys", "/ready"):
            answer = await client.get(path)
            assert answer.status_code == 504
            assert answer.json()["code"] == "DEADLINE_EXCEEDED"
            assert answer.json()["detail"] == "notary did not answer in time"


async def test_metrics_have_the_agreed_names_and_bounded_labels(gateway: httpx.AsyncClient, notary: Any) -> None:
    def count(text: str, name: str, **labels: str) -> float:
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    before = (await gateway.get("/metrics")).text
    await gateway.get("/api/v1/receipts/0199-cafe")
    await gateway.get("/api/v1/receipts/%FF")
    await gateway.get("/no/such/0199-cafe")
    await gateway.request("BREW", "/no/such/0199-cafe")
    after = (await gateway.get("/metrics")).text

    def grown(name: str, **labels: str) -> float:
        return count(after, name, **labels) - count(before, name, **labels)

    template = "/api/v1/receipts/{receipt_id}"
    assert grown("http_requests_total", method="GET", endpoint=template, code="200") == 1
    assert grown("http_requests_total", method="GET", endpoint=template, code="400") == 1
    assert grown("http_requests_total", method="GET", endpoint="other", code="404") == 1
    assert grown("http_request_duration_seconds_bucket", method="GET", endpoint=template, le="+Inf") == 2
    assert "0199-cafe" not in after
    assert "BREW" not in after
    assert count(after, "afdp_gateway_in_flight_requests") == 1


async def test_upstream_errors_are_counted(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["RotateKey"] = Unavailable("Vault is sealed")

    await gateway.post("/api/v1/keys:rotate", json={})

    counted = 'afdp_gateway_upstream_errors_total{code="UNAVAILABLE",rpc="RotateKey"}'
    assert counted in (await gateway.get("/metrics")).text


# --- what describes the API -------------------------------------------------------------------------------------------


async def test_the_openapi_document_is_valid_and_has_only_what_works(gateway: httpx.AsyncClient) -> None:
    document = (await gateway.get("/openapi.json")).json()

    openapi_spec_validator.validate(document)
    assert document["openapi"] == "3.1.0"
    assert "/api/v1/evidence/sign" in document["paths"]
    assert "/api/v1/keys/{key_id}:revoke" in document["paths"]
    assert "/api/v1/evidence/sign/approval" not in document["paths"], "planned"
    watch = document["paths"]["/api/v1/receipts:watch"]["get"]
    assert list(watch["responses"]["200"]["content"]) == ["text/event-stream"]
    assert {each["name"] for each in watch["parameters"]} == {"cursor", "Last-Event-ID"}


async def test_the_page_needs_nothing_from_elsewhere(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/docs")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "script" not in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert re.findall(r'(?:src|href)="(?!#|/openapi\.json)[^"]*"', answer.text) == []
    for operation in ("SignEvidence", "RevokeKey", "HealthCheck"):
        assert f'id="{operation}"' in answer.text


# --- the log's read path ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def log_server(files: dict[str, tuple[int, dict[str, str], bytes]]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A small HTTP server of a log's files; gives its URL and the heads of the requests that it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        verb, path, _ = head.split(b" ", 2)
        status, headers, body = files.get(path.decode(), (404, {}, b"nothing"))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{lines}\r\n".encode())
        writer.write(b"" if verb == b"HEAD" else body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


async def test_tiles_and_checkpoints_pass_through_as_they_are(start_gateway: Any, notary: Any) -> None:
    tile, forever = bytes(range(256)) * 32, "public, max-age=31536000, immutable, no-transform"
    files: dict[str, tuple[int, dict[str, str], bytes]] = {
        "/tile/0/x001/234": (
            200,
            {"cache-control": forever, "etag": '"t"', "set-cookie": "a=b", "access-control-allow-origin": "*"},
            tile,
        ),
        "/tile/0/000.p/7": (304, {"cache-control": forever, "etag": '"t"'}, b""),
        "/checkpoint": (
            200,
            {"content-type": "text/plain; charset=utf-8", "cache-control": "no-cache"},
            b"origin\n5\n",
        ),
        "/tile/entries/000.p/5": (503, {}, b"stack trace"),
        "/tile/entries/000.p/6": (500, {}, b"entry 3 does not hold"),
        "/logs/acme.example/tile/entries/000.p/2": (200, {}, b"of another log"),
    }
    async with log_server(files) as (url, heads), start_gateway(notary_address=notary.address, log_url=url) as client:
        asked = {"If-None-Match": '"u"', "Authorization": "Bearer x", "Range": "bytes=0-1", "Accept-Encoding": "br"}
        got = await client.get("/log/tile/0/x001/234", headers=asked)
        unchanged = await client.get("/log/tile/0/000.p/7", headers={"If-None-Match": '"t"'})
        checkpoint = await client.get("/log/checkpoint")
        head = await client.head("/log/checkpoint")
        missing = await client.get("/log/tile/0/000")
        broken = await client.get("/log/tile/entries/000.p/5")
        damaged = await client.get("/log/tile/entries/000.p/6")
        further = await client.get("/log/logs/acme.example/tile/entries/000.p/2")

    assert got.content == tile
    assert got.headers["cache-control"] == forever
    assert got.headers["etag"] == '"t"'
    assert "set-cookie" not in got.headers
    assert b'if-none-match: "u"' in heads[0].lower()
    assert b"accept-encoding: identity" in heads[0].lower()
    for withheld in (b"authorization", b"range:"):
        assert withheld not in heads[0].lower()
    assert got.headers["access-control-allow-origin"] == "*"
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", '"t"')
    assert (damaged.status_code, damaged.json()["code"]) == (500, "DATA_LOSS")
    assert further.content == b"of another log"
    assert checkpoint.text == "origin\n5\n"
    assert checkpoint.headers["content-type"] == "text/plain; charset=utf-8"
    assert (head.status_code, head.content) == (200, b"")
    assert missing.status_code == 404
    assert broken.status_code == 503
    assert "stack" not in broken.text


@pytest.mark.parametrize(
    "path",
    [
        "",
        "add-checkpoint",
        "%63heckpoint",
        "/checkpoint",
        "%2e%2e/checkpoint",
        "tile/0/1",
        "tile/x/000",
        "tile/0/000/",
        "tile/0/%30%30%30",
        "tile/0/x000/000",
        "tile/64/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "logs/acme.example/health",
        "logs/acme.example/logs/acme.example/checkpoint",
        "logs/Acme.example/checkpoint",
        "logs/.%2e/checkpoint",
    ],
)
async def test_nothing_but_the_logs_files_is_proxied(gateway: httpx.AsyncClient, path: str) -> None:
    answer = await gateway.get(f"/log/{path}")

    assert answer.status_code == 404
    assert answer.json()["code"] == "NOT_FOUND"


async def test_a_log_that_is_away_is_said_at_once(start_gateway: Any, notary: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with start_gateway(notary_address=notary.address, log_url=url) as client:
        answer = await client.get("/log/checkpoint")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the log cannot be reached"


# --- the process ------------------------------------------------------------------------------------------------------


async def start_process(port: int, **settings: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AFDP_")}
    environment |= {"AFDP_PORT": str(port), "AFDP_TLS": "off", **settings}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "afdp.gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )


async def until_it_answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await client.get("/health")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def until_it_refuses(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()


async def test_sigterm_lets_the_call_under_way_end_and_the_log_says_no_more_than_it_should(notary: Any) -> None:
    notary.answers["SignEvidence"] = release = asyncio.Event()
    port = free_port()
    process = await start_process(port, AFDP_NOTARY_ADDRESS=notary.address, AFDP_ACCESS_LOG="all")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        await until_it_answers(client)
        await client.get("/api/v1/evidence?actor_id=secret-7f3a&page_size=x")
        body, headers = (
            {"idempotency_key": "secret-7f3a"},
            {"Authorization": "Bearer secret-7f3a", "X-Request-ID": "r-1"},
        )
        under_way = asyncio.create_task(client.post("/api/v1/evidence/sign", json=body, headers=headers))
        await notary.arrived.wait()
        process.send_signal(signal.SIGTERM)
        await until_it_refuses(port)
        release.set()
        assert (await under_way).status_code == 200
    async with asyncio.timeout(10):
        _, log = await process.communicate()

    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert b"secret-7f3a" not in log
    signed = next(line for line in lines if line.get("endpoint") == "/api/v1/evidence/sign")
    assert (signed["method"], signed["status"], signed["request_id"]) == ("POST", 200, "r-1")
    assert len(signed["trace_id"]) == 32
    assert any(line.get("status") == 400 and line["endpoint"] == "/api/v1/evidence" for line in lines)
