"""What callers of REST see, checked in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.e2e.evidence import package

SIGN = "/api/v1/evidence/sign"
BATCH = "/api/v1/evidence/sign/batch"


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    """The fields that a problem document names, with their messages; the document must be one of RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["code"] == code
    assert document["type"].startswith("https://afdp.dev/problems/")
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == answer.headers["x-request-id"]
    return {error["field"]: error["message"] for error in document["errors"]}


async def sign(rest: httpx.AsyncClient, /, **changes: Any) -> dict[str, Any]:
    """The answer to a package that no other call signs."""
    answer = await rest.post(SIGN, json={"evidence_package": package(**changes)})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def get(rest: httpx.AsyncClient, path: str, **parameters: Any) -> Any:
    """The JSON of a good answer."""
    answer = await rest.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def pages(rest: httpx.AsyncClient, path: str, member: str, **parameters: Any) -> AsyncIterator[list[Any]]:
    """Every page of a list to its end."""
    token = ""
    while True:
        page = await get(rest, path, page_token=token, **parameters)
        yield page[member]
        token = page["next_page_token"]
        if not token:
            return


async def logged(rest: httpx.AsyncClient, receipt_id: str) -> dict[str, Any]:
    """The receipt once it is in the log."""
    async with asyncio.timeout(10):
        while True:
            receipt: dict[str, Any] = (await get(rest, f"/api/v1/receipts/{receipt_id}"))["receipt"]
            if receipt["state"] == "logged":
                return receipt
            await asyncio.sleep(0.02)


async def until_ready(rest: httpx.AsyncClient) -> None:
    """Waits until the stack reads and writes."""
    async with asyncio.timeout(30):
        while True:
            answer = await rest.get("/ready", params={"writes": "true"})
            if answer.status_code == 200:
                return
            await asyncio.sleep(0.05)
