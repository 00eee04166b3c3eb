"""Bodies that are no JSON: time-stamp queries and replies go through as they are (RFC 3161, section 3.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from afdp.errors import InvalidArgument, Unavailable
from tests.integration.gateway.test_rest import assert_problem, fields

PATH = "/api/v1/timestamp"
QUERY = {"content-type": "application/timestamp-query"}


async def test_the_body_is_the_query_and_the_answer_is_the_reply(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["CreateTimestamp"] = notary.message("CreateTimestampResponse", timestamp_response=b"\x30\x03\0\xff")

    answer = await gateway.post(PATH, content=b"\x30\x01\xfe", headers=QUERY)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/timestamp-reply"
    assert answer.content == b"\x30\x03\0\xff"
    assert answer.headers["x-request-id"]
    assert notary.calls[0].request.timestamp_request == b"\x30\x01\xfe"


@pytest.mark.parametrize(
    "content_type", ["application/timestamp-query", "Application/Timestamp-Query", "application/timestamp-query; q=1"]
)
async def test_the_media_type_is_read_as_http_says(gateway: httpx.AsyncClient, notary: Any, content_type: str) -> None:
    answer = await gateway.post(PATH, content=b"x", headers={"content-type": content_type})

    assert answer.status_code == 200
    assert notary.calls


@pytest.mark.parametrize("content_type", ["application/json", "application/timestamp-reply", "text/plain", None])
async def test_another_media_type_is_415_and_says_which_one(
    gateway: httpx.AsyncClient, notary: Any, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = await gateway.post(PATH, content=b'{"timestamp_request": "MAA="}', headers=headers)

    assert "application/timestamp-query" in assert_problem(answer, 415, "INVALID_ARGUMENT")["detail"]
    assert not notary.calls


async def test_a_query_is_not_spoken_where_json_is(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.post("/api/v1/evidence/sign", content=b"x", headers=QUERY)

    assert "application/json" in assert_problem(answer, 415, "INVALID_ARGUMENT")["detail"]


async def test_an_empty_query_names_the_body(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.post(PATH, content=b"", headers=QUERY)

    assert_problem(answer, 400, "INVALID_ARGUMENT")
    assert fields(answer) == {"body": "is empty; send application/timestamp-query"}
    assert not notary.calls


async def test_more_than_a_query_can_be_is_too_large_said_or_not(gateway: httpx.AsyncClient, notary: Any) -> None:
    async def dripped() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 1024

    for content in (b"x" * 8193, dripped()):
        answer = await gateway.post(PATH, content=content, headers=QUERY)

        assert_problem(answer, 413, "INVALID_ARGUMENT")
        assert fields(answer) == {"body": "is over 8192 bytes"}
    assert (await gateway.post(PATH, content=b"x" * 8192, headers=QUERY)).status_code == 200
    assert len(notary.calls) == 1


async def test_a_query_takes_no_parameters(gateway: httpx.AsyncClient, notary: Any) -> None:
    answer = await gateway.post(f"{PATH}?timestamp_request=MAA%3D", content=b"x", headers=QUERY)

    assert_problem(answer, 400, "INVALID_ARGUMENT")
    assert list(fields(answer)) == ["timestamp_request"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidArgument.field("timestamp_request", "must be"), 400), (Unavailable("the clock", retry_after=2), 503)],
)
async def test_an_error_is_a_problem_here_too(
    gateway: httpx.AsyncClient, notary: Any, error: Exception, status: int
) -> None:
    notary.answers["CreateTimestamp"] = error

    answer = await gateway.post(PATH, content=b"x", headers=QUERY)

    assert_problem(answer, status, error.code)  # type: ignore[attr-defined]


async def test_an_answer_that_is_no_message_is_an_internal_error(gateway: httpx.AsyncClient, notary: Any) -> None:
    notary.answers["CreateTimestamp"] = b"\xff\xff"

    assert_problem(await gateway.post(PATH, content=b"x", headers=QUERY), 500, "INTERNAL")
