"""What is under /api/v2/ is Rekor v2's: bodies go through as they are, and errors are those of its gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from afdp.errors import AlreadyExists, InvalidArgument, NotaryError, PermissionDenied, ResourceExhausted, Unavailable
from afdp.gateway import entry_log
from tests.integration.gateway.test_operation import log_server

PATH = "/api/v2/log/entries"
JSON = {"content-type": "application/json"}
BODY = b'{"hashedRekordRequestV002": {"digest": "aGVsbG8"} }'


def status_of(answer: httpx.Response, http: int, code: int) -> dict[str, Any]:
    """The `google.rpc.Status` that an error is."""
    status: dict[str, Any] = answer.json()
    assert answer.status_code == http, status
    assert answer.headers["content-type"] == "application/json"
    assert set(status) == {"code", "message", "details"}
    assert status["code"] == code
    assert status["message"]
    return status


async def test_the_request_and_the_entry_go_through_as_they_are(gateway: httpx.AsyncClient, notary: Any) -> None:
    entry = b'{"logIndex":"0", "integratedTime":"0"}'
    notary.answers["AddLogEntry"] = notary.message("AddLogEntryResponse", log_entry=entry)

    answer = await gateway.post(PATH, content=BODY, headers=JSON)

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == entry
    assert notary.calls[0].request.entry == BODY


async def test_credentials_in_the_url_reach_the_notary_and_no_one_else(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.post(PATH, content=BODY, headers=JSON, auth=("ci", "p:ss"))

    assert answer.status_code == 201
    assert notary.calls[0].metadata["authorization"] == "Basic Y2k6cDpzcw=="


@pytest.mark.parametrize(
    ("error", "http", "code"),
    [
        (PermissionDenied("no entries but its own"), 403, 7),
        (ResourceExhausted("too many wait", retry_after=1.5), 429, 8),
        (Unavailable("the log is away", retry_after=1.5), 503, 14),
    ],
)
async def test_an_error_is_a_status_as_rekors(
    gateway: httpx.AsyncClient, notary: Any, error: NotaryError, http: int, code: int
) -> None:
    notary.answers["AddLogEntry"] = error

    answer = await gateway.post(PATH, content=BODY, headers=JSON)

    assert status_of(answer, http, code)["message"] == error.message
    assert answer.headers.get("retry-after") == ("2" if error.retry_after else None)


async def test_a_refused_member_is_named_in_the_message_and_in_the_details(
    gateway: httpx.AsyncClient, notary: Any
) -> None:
    notary.answers["AddLogEntry"] = InvalidArgument.field("hashedRekordRequestV002.digest", "is missing")

    status = status_of(await gateway.post(PATH, content=BODY, headers=JSON), 400, 3)

    assert status["message"] == "the request is not valid: hashedRekordRequestV002.digest: is missing"
    [details] = status["details"]
    assert details["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert details["fieldViolations"] == [{"field": "hashedRekordRequestV002.digest", "description": "is missing"}]


async def test_a_duplicate_is_409_and_a_header_says_where_the_entry_is(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["AddLogEntry"] = AlreadyExists("an equivalent entry already exists", metadata={"log_index": "77"})

    answer = await gateway.post(PATH, content=BODY, headers=JSON)

    assert status_of(answer, 409, 6)["message"] == "an equivalent entry already exists"
    assert answer.headers["x-log-index"] == "77"


async def test_what_the_gateway_refuses_itself_is_a_status_too(gateway: httpx.AsyncClient, notary: Any) -> None:
    large = status_of(await gateway.post(PATH, content=b"x" * 1024 * 1024, headers=JSON), 413, 3)
    assert large["details"][0]["fieldViolations"] == [{"field": "body", "description": "is over 98304 bytes"}]
    status_of(await gateway.post(PATH, content=BODY, headers={"content-type": "text/plain"}), 415, 3)
    status_of(await gateway.post(PATH, content=b"", headers=JSON), 400, 3)
    status_of(await gateway.get("/api/v2/nothing"), 404, 5)
    status_of(await gateway.get("/api/v2/tile/0/abc"), 404, 5)
    wrong_verb = await gateway.get(PATH)
    status_of(wrong_verb, 405, 12)
    assert wrong_verb.headers["allow"] == "POST"
    assert notary.calls == []


async def test_a_gateway_with_as_much_as_it_serves_says_so_as_rekor_would(start_gateway: Any, notary: Any) -> None:
    notary.answers["AddLogEntry"] = free = asyncio.Event()
    async with start_gateway(notary_address=notary.address, max_in_flight=1) as client:
        served = asyncio.create_task(client.post(PATH, content=BODY, headers=JSON))
        await notary.arrived.wait()

        refused = await client.post(PATH, content=BODY, headers=JSON)

        assert status_of(refused, 429, 8)["message"] == "too many requests are being served; try again"
        assert refused.headers["retry-after"] == "1"
        free.set()
        assert (await served).status_code == 201


async def test_the_log_is_read_where_rekors_readers_look(start_gateway: Any, notary: Any) -> None:
    files = {
        "/checkpoint": (200, {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}, b"note\n"),
        "/tile/entries/x001/234.p/5": (200, {"content-type": "application/octet-stream"}, b"bundle"),
    }
    async with log_server(files) as (url, heads), start_gateway(notary_address=notary.address, log_url=url) as client:
        checkpoint = await client.get("/api/v2/checkpoint")
        bundle = await client.get("/api/v2/tile/entries/x001/234.p/5", headers={"Authorization": "Bearer x"})

    assert (checkpoint.content, checkpoint.headers["cache-control"]) == (b"note\n", "no-store")
    assert bundle.content == b"bundle"
    assert b"Bearer" not in b"".join(heads)


async def test_the_log_that_takes_the_entries_is_the_one_that_is_read(start_gateway: Any, notary: Any) -> None:
    files = {f"{log}/checkpoint": (200, {}, log.encode()) for log in ("", "/logs/strangers.example")}
    async with (
        log_server(files) as (url, _),
        start_gateway(notary_address=notary.address, log_url=url, entry_log="strangers.example") as client,
    ):
        assert (await client.get("/api/v2/checkpoint")).text == "/logs/strangers.example"
        assert (await client.get("/log/checkpoint")).text == ""


def listing(*logs: tuple[str, str, str, str]) -> bytes:
    """What the log service says of the logs: origin, path, state and successor of each."""
    names = ("origin", "path", "state", "successor")
    return json.dumps({"logs": [dict(zip(names, each, strict=True)) for each in logs]}).encode()


@pytest.mark.parametrize("told", ["", "strangers.example"])
async def test_who_reads_follows_the_log_to_the_one_that_goes_on_and_the_old_one_stays_where_it_was(
    start_gateway: Any, notary: Any, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setattr(entry_log, "FRESH", 0.0)
    first, path = told or "first.example", f"logs/{told}/" if told else ""
    immutable = {"cache-control": "public, max-age=31536000, immutable, no-transform"}
    files = {
        f"/{where}{file}": (200, immutable, where.encode())
        for where in (path, "logs/2027.example/", "logs/2028.example/")
        for file in ("checkpoint", "tile/0/000")
    }

    def logs(*states: str) -> bytes:
        return listing(
            *([("first.example", "", "open", "")] if told else []),
            (first, path, states[0], "2027.example"),
            ("2027.example", "logs/2027.example/", states[1], "2028.example"),
            ("2028.example", "logs/2028.example/", states[2], ""),
        )

    async with (
        log_server(files) as (url, _),
        start_gateway(notary_address=notary.address, log_url=url, entry_log=told) as client,
    ):
        read = []
        for answer in (
            None,
            logs("open", "standby", "standby"),
            logs("frozen", "open", "standby"),
            logs("frozen", "frozen", "open"),
            b"{}",
        ):
            files["/logs"] = (200, {}, answer) if answer else (404, {}, b"")
            tile = await client.get("/api/v2/tile/0/000")
            read.append((await client.get("/api/v2/checkpoint")).text)
            assert tile.text == read[-1]
        old = await client.get(f"/log/{path}tile/0/000")

    assert read == [path, path, "logs/2027.example/", "logs/2028.example/", "logs/2028.example/"]
    assert old.text == path
    assert "immutable" in old.headers["cache-control"]
    assert tile.headers["cache-control"] == "public, no-cache, no-transform"  # of another log under the same path


async def test_where_reading_is_off_nobody_reads_the_log_and_writing_goes_on(start_gateway: Any, notary: Any) -> None:
    async with start_gateway(notary_address=notary.address, log_reading="off") as client:
        status_of(await client.get("/api/v2/checkpoint"), 403, 7)
        assert (await client.get("/log/checkpoint")).status_code == 403
        assert (await client.post(PATH, content=BODY, headers=JSON)).status_code == 201
