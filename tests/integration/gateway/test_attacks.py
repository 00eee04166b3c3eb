"""What is no honest request, over raw sockets: refused at once, answered once, counted, and told to the log alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import orjson
import pytest

from afdp import bounded_http
from afdp.errors import NotFound, Unauthenticated
from tests.http_attacks import BEHIND, HEADS, LENGTHS, exchange, statuses

SIGN = "/api/v1/evidence/sign"
JSON = {"Content-Type": "application/json"}
POST = f"POST {SIGN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
HINTS = (b"llhttp", b"httptools", b"uvicorn", b"Traceback", b".py", b"ython")


def port_of(client: httpx.AsyncClient) -> int:
    assert client.base_url.port is not None
    return client.base_url.port


async def refusals(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("afdp_http_refusals_total{"))


@pytest.mark.parametrize("attack", LENGTHS | HEADS)
async def test_what_could_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_served(
    gateway: httpx.AsyncClient, notary: Any, attack: str
) -> None:
    before = await refusals(gateway)
    answer = await exchange(port_of(gateway), (LENGTHS | HEADS)[attack] + BEHIND)

    assert statuses(answer) == [400], answer
    head, body = answer.split(b"\r\n\r\n", 1)
    problem = orjson.loads(body)
    assert (problem["status"], problem["code"]) == (400, "INVALID_ARGUMENT")
    assert b"connection: close" in head
    assert b"x-content-type-options: nosniff" in head
    assert not any(hint in answer for hint in HINTS)
    assert notary.calls == []
    assert await refusals(gateway) == before + 1


async def test_the_log_says_why_and_once_a_second(
    gateway: httpx.AsyncClient, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "_last_told", {})
    with caplog.at_level(logging.WARNING, "afdp.bounded_http"):
        for _ in range(20):
            await exchange(port_of(gateway), HEADS["a URL of another host"])
    told = [record.fields for record in caplog.records if record.fields["reason"] == "ambiguous"]

    assert 1 <= len(told) < 20
    assert told[0]["address"] == "127.0.0.1"
    assert "Host" in told[0]["detail"]


async def test_answers_come_in_the_order_of_requests_also_before_a_refusal(
    gateway: httpx.AsyncClient, notary: Any
) -> None:
    notary.answers["ListKeys"] = NotFound("this is the first answer")
    keys = b"GET /api/v1/keys HTTP/1.1\r\nHost: x\r\n\r\n"

    answer = await exchange(port_of(gateway), keys + GET + b"\r\n" + HEADS["no Host"] + BEHIND)

    assert statuses(answer) == [404, 200, 400]
    assert b"this is the first answer" in answer


async def test_a_body_that_breaks_off_badly_ends_its_request_alone(gateway: httpx.AsyncClient, notary: Any) -> None:
    broken = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}"
    answer = await exchange(port_of(gateway), GET + b"\r\n" + broken, b"XX" + BEHIND)

    assert statuses(answer) == [200, 400]
    assert notary.calls == []


async def test_trailers_are_no_headers(gateway: httpx.AsyncClient, notary: Any) -> None:
    trailer = b"Authorization: Bearer smuggled\r\nIdempotency-Key: smuggled\r\n"
    answer = await exchange(
        port_of(gateway),
        POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + trailer + b"\r\n",
    )

    assert statuses(answer) == [200]
    assert "authorization" not in notary.calls[0].metadata
    assert notary.calls[0].request.idempotency_key == ""


@pytest.mark.parametrize("flood", [b"2;" + b"x" * 1000, b"0" * 1000 + b"2", b"1\r\na\r\n" * 400 + b"2;x"])
async def test_a_body_may_not_be_mostly_framing(start_gateway: Any, notary: Any, flood: bytes) -> None:
    async with start_gateway(notary_address=notary.address, max_header_bytes=4096) as client:
        pieces = [flood] * 8
        answer = await exchange(port_of(client), POST + b"Transfer-Encoding: chunked\r\n\r\n", *pieces)

    assert statuses(answer) == [400]
    assert notary.calls == []


async def test_an_upgrade_is_not_made_and_the_request_is_answered(gateway: httpx.AsyncClient, notary: Any) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    websocket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    for asked in (upgrade, websocket):
        answer = await exchange(port_of(gateway), GET + asked + b"\r\n" + BEHIND)
        assert statuses(answer) == [200]
        assert b"connection: close" in answer
    posted = await exchange(port_of(gateway), POST + upgrade + b"Content-Length: 2\r\n\r\n{}" + BEHIND)
    assert statuses(posted) == [400]
    assert b"send the request in HTTP/1.1 without it" in posted
    assert notary.calls == []


async def test_trace_and_tunnels_are_not_served(gateway: httpx.AsyncClient) -> None:
    secret = b"Authorization: Bearer secret\r\nConnection: close\r\n\r\n"
    for verb in (b"TRACE", b"CONNECT", b"PURGE"):
        answer = await exchange(port_of(gateway), verb + GET.removeprefix(b"GET") + secret)
        assert statuses(answer) == [405], verb
        assert b"secret" not in answer


async def test_heads_are_bounded_in_lines_and_bytes_and_urls_with_them(start_gateway: Any, notary: Any) -> None:
    async with start_gateway(notary_address=notary.address, max_header_bytes=4096, max_headers=20) as client:
        many = b"".join(b"X%d: y\r\n" % number for number in range(25))
        assert statuses(await exchange(port_of(client), GET + many + b"\r\n")) == [431]
        url = b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        assert statuses(await exchange(port_of(client), url)) == [431]
        assert (await client.get("/health")).status_code == 200


async def test_requests_that_wait_on_one_connection_are_bounded(start_gateway: Any, notary: Any) -> None:
    async with start_gateway(notary_address=notary.address, max_pipelined=4) as client:
        within = await exchange(port_of(client), (GET + b"\r\n") * 4 + GET + b"Connection: close\r\n\r\n")
        beyond = await exchange(port_of(client), (GET + b"\r\n") * 500)

    assert statuses(within) == [200] * 5
    assert statuses(beyond) == [200] * 5 + [429]


async def test_a_body_that_drips_is_cut_off_and_one_that_flows_is_not(start_gateway: Any, notary: Any) -> None:
    settings = {"header_timeout_seconds": 1.0, "min_body_bytes_per_second": 10_000, "request_timeout_seconds": 60.0}
    async with start_gateway(notary_address=notary.address, **settings) as client:

        async def send(piece: bytes, count: int) -> bytes:
            length = f"Content-Length: {len(piece) * count}\r\nConnection: close\r\n\r\n".encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(client))
            writer.write(POST + length)

            async def drip() -> None:
                for _ in range(count):
                    writer.write(piece)
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            answer = await reader.read()  # whole, though there is more to come
            dripping.cancel()
            writer.close()
            return answer

        slow = await send(b" ", 1000)
        fast = await send(b'{"idempotency_key":"' + b"k" * 30 + b'"}' + b" " * 50, 1)

    assert statuses(slow) == [408]
    assert statuses(fast) == [200]
    assert len(notary.calls) == 1


async def test_connections_from_one_address_are_bounded_and_a_proxy_speaks_for_many(
    start_gateway: Any, notary: Any
) -> None:
    bound = {"notary_address": notary.address, "max_connections_per_address": 1}
    asked = GET + b"Connection: close\r\n\r\n"
    async with start_gateway(**bound) as client:
        assert (await client.get("/health")).status_code == 200  # and stays open
        refused = await exchange(port_of(client), asked)
    async with start_gateway(**bound, proxies="127.0.0.0/8") as client:
        assert (await client.get("/health")).status_code == 200
        served = await exchange(port_of(client), asked)

    assert statuses(refused) == [429]
    assert b"retry-after: 1\r\n" in refused
    assert statuses(served) == [200]


async def test_far_more_connections_than_allowed_are_cut_without_a_word(start_gateway: Any, notary: Any) -> None:
    async with start_gateway(notary_address=notary.address, max_connections=1) as client:
        opened = [await asyncio.open_connection("127.0.0.1", port_of(client)) for _ in range(80)]
        reads = [asyncio.create_task(reader.read()) for reader, _ in opened]
        done, _ = await asyncio.wait(reads, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        ended = done.pop()
        for _, writer in opened:
            writer.close()
        await asyncio.gather(*reads, return_exceptions=True)
        assert isinstance(ended.exception(), ConnectionResetError) or ended.result() == b""


BOMBS = {
    "depth": b"[" * (16 * 1024 * 1024),
    "depth of objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "depth inside of metadata": b'{"evidence_package":{"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5002,
    "a number without end": b'{"evidence_package":{"metadata":{"n":' + b"9" * 1_000_000 + b"}}}",
    "an exponent without end": b'{"evidence_package":{"metadata":{"n":1e' + b"9" * 100_000 + b"}}}",
    "one key a hundred thousand times": b'{"evidence_package":{' + b'"metadata":{},' * 100_000 + b'"metadata":{}}}',
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_json_bomb_is_refused_and_others_are_served_meanwhile(
    gateway: httpx.AsyncClient, notary: Any, bomb: str
) -> None:
    answer = asyncio.create_task(gateway.post(SIGN, content=BOMBS[bomb], headers=JSON))
    assert (await gateway.get("/health")).status_code == 200

    assert (await answer).status_code in (400, 413)
    assert (await answer).json()["code"] == "INVALID_ARGUMENT"
    assert notary.calls == []


@pytest.mark.parametrize(
    "path",
    [
        "../health",
        "%2e%2e/health",
        "%252e%252e/health",
        "..%2f..%2fetc%2fpasswd",
        "..%5c..%5cetc",
        "..\\\\health",
        "tile/../checkpoint",
        "tile/0/000/../../../vkey",
        "tile/0/000%00",
        "tile/0/%2e%2e/000",
        "tile/0/000%2f..",
        "/checkpoint",
        "checkpoint/",
        "checkpoint%0d%0aX-Injected:1",
        "checkpoint;x=y",
        "logs/../checkpoint",
        "logs/%2e%2e/checkpoint",
        "logs/notary.localhost%2f..%2f/checkpoint",
        "logs/a@b/checkpoint",
    ],
)
async def test_a_path_that_leaves_the_log_is_not_found_and_not_asked_for(gateway: httpx.AsyncClient, path: str) -> None:
    # The log behind this gateway is away: whatever was asked of it would be a 503.
    answer = await exchange(
        port_of(gateway), f"GET /log/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )

    assert statuses(answer) == [404]
    assert b"x-injected" not in answer.lower()


async def test_sql_in_a_filter_is_a_value_like_any_other(gateway: httpx.AsyncClient, notary: Any) -> None:
    for value in ("' OR 1=1 --", '"; DROP TABLE records; --', "\\'; SELECT pg_sleep(9) --"):
        answer = await gateway.get("/api/v1/evidence", params={"event_type": value})
        assert answer.status_code == 200
        assert notary.calls[-1].request.event_type == value
    bad = await gateway.get("/api/v1/evidence", params={"page_size": "1; DROP TABLE records"})
    assert bad.status_code == 400


async def test_requests_from_one_address_are_bounded_and_others_are_served(start_gateway: Any, notary: Any) -> None:
    settings = {"notary_address": notary.address, "address_rate": "0.1/5", "proxies": "127.0.0.1"}
    async with start_gateway(**settings) as client:
        one, other = {"X-Forwarded-For": "203.0.113.9, 192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
        answers = [await client.get("/api/v1/keys", headers=one) for _ in range(6)]
        elsewhere = await client.get("/api/v1/keys", headers=other)
        lied = await client.get("/api/v1/keys", headers={"X-Forwarded-For": "198.51.100.7, 192.0.2.1"})
        health = await client.get("/health", headers=one)

    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    wait = int(answers[5].headers["retry-after"])
    assert 5 <= wait <= 10
    assert answers[5].headers["ratelimit"] == f'"address";r=0;t={wait}'
    assert answers[5].headers["ratelimit-policy"] == '"address";q=5;w=50'
    assert (elsewhere.status_code, lied.status_code, health.status_code) == (200, 429, 200)


async def test_who_forwards_is_believed_only_from_a_proxy_of_ours(start_gateway: Any, notary: Any) -> None:
    async with start_gateway(notary_address=notary.address, address_rate="0.1/3") as client:
        answers = [
            (await client.get("/api/v1/keys", headers={"X-Forwarded-For": f"192.0.2.{number}"})).status_code
            for number in range(5)
        ]
    assert answers == [200, 200, 200, 429, 429]


async def test_an_address_whose_credentials_fail_is_not_listened_to_but_for_good_ones(
    start_gateway: Any, notary: Any
) -> None:
    there = {"X-Forwarded-For": "192.0.2.1"}
    good, bad = {"Authorization": "Bearer good", **there}, {"Authorization": "Bearer bad", **there}
    settings = {"notary_address": notary.address, "auth_failures": "0.1/3", "proxies": "127.0.0.1"}
    async with start_gateway(**settings) as client:
        assert (await client.get("/api/v1/keys", headers=good)).status_code == 200
        notary.answers["ListKeys"] = Unauthenticated("the credentials are missing or not valid")
        refused = [await client.get("/api/v1/keys", headers=bad) for _ in range(5)]
        asked = len(notary.calls)
        local = [await client.get("/api/v1/keys", headers={"Authorization": "Bearer bad"}) for _ in range(5)]
        notary.answers.clear()
        still = await client.get("/api/v1/keys", headers=good)
        anonymous = await client.get("/api/v1/keys", headers=there)

    assert [answer.status_code for answer in refused] == [401, 401, 401, 429, 429]
    assert 5 <= int(refused[4].headers["retry-after"]) <= 10
    assert asked == 4
    assert {answer.status_code for answer in local} == {401}  # a proxy on this machine speaks for many
    assert (still.status_code, anonymous.status_code) == (200, 200)
