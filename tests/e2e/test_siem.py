"""Audit events through the whole stack: from a call to a file that a SIEM's collector follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.local_issuer import LocalIssuer, write_identity

SINKS = """
sinks:
  - {{name: disk, kind: file, path: {folder}/audit.ocsf}}
  - {{name: gone, kind: http, url: "http://127.0.0.1:1/in"}}
"""


@dataclass(frozen=True)
class Watched:
    """A stack whose audit events go to a file, and to a collector that is not there."""

    stack: Stack
    issuer: LocalIssuer
    file: Path

    def token(self, *roles: str, **claims: Any) -> str:
        said = {"realm_access": {"roles": list(roles)}, "tenant": "default"}
        return self.issuer.token(self.issuer.claims(**said, **claims))

    async def events(self, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        """The events in the file that are wanted, once there are so many."""
        async with asyncio.timeout(120):
            while True:
                whole, _, _ = (self.file.read_text() if self.file.exists() else "").rpartition("\n")
                found = [event for line in whole.splitlines() if wanted(event := json.loads(line))]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def watched() -> AsyncIterator[Watched]:
    with open_folder() as folder:
        sinks = folder / "sinks.yaml"
        sinks.write_text(SINKS.format(folder=folder))
        issuer = LocalIssuer(folder)
        identity = write_identity(folder / "identity.yaml", {"issuers": [issuer.settings()]})
        notary = {**NO_KEY_RECORDS, "AFDP_AUTH": "required", "AFDP_IDENTITY": str(identity)}
        notary["AFDP_AUDIT_INTERVAL_SECONDS"] = "0.5"
        settings = {"notary": notary, "metadata": {"AFDP_AUDIT_SINKS": str(sinks)}}
        async with running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack:
            yield Watched(stack, issuer, folder / "audit.ocsf")


@pytest_asyncio.fixture(loop_scope="session")
async def rest(watched: Watched) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=watched.stack.url, trust_env=False, timeout=60) as client:
        yield client


def of_request(request_id: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["metadata"].get("correlation_uid") == request_id


async def test_what_a_caller_does_reaches_the_siem_before_and_after_and_no_token_does(
    watched: Watched, rest: httpx.AsyncClient
) -> None:
    token = watched.token("ai_engineer")

    answer = await rest.post(
        "/api/v1/evidence/sign",
        json={"evidence_package": package(), "wait_for": "logged"},
        headers={"authorization": f"Bearer {token}", "x-request-id": "siem-1"},
    )

    assert answer.status_code == 200, answer.text
    intent, outcome = await watched.events(of_request("siem-1"), 2)
    receipt_id = answer.json()["receipt"]["receipt_id"]
    for event in (intent, outcome):
        assert (event["class_uid"], event["activity_name"]) == (6003, "Create")
        assert event["api"]["operation"] == "SignEvidence"
        assert event["metadata"]["tenant_uid"] == "default"
        assert event["resources"] == [{"uid": receipt_id, "type": "receipt"}]
    assert (intent["status"], outcome["status"]) == ("Intended", "Success")
    assert intent["metadata"]["sequence"] < outcome["metadata"]["sequence"]
    assert token.split(".")[2] not in watched.file.read_text()


async def test_who_is_refused_reaches_the_siem(watched: Watched, rest: httpx.AsyncClient) -> None:
    refused = await rest.get(
        "/api/v1/keys", headers={"authorization": f"Bearer {watched.token('ai_engineer')}", "x-request-id": "siem-2"}
    )
    stranger = await rest.get("/api/v1/keys", headers={"authorization": "Bearer nonsense"})

    assert (refused.status_code, stranger.status_code) == (403, 401)
    [event] = await watched.events(of_request("siem-2"))
    assert (event["class_uid"], event["action"], event["severity"]) == (6003, "Denied", "Medium")
    [event, *_] = await watched.events(lambda event: event["class_uid"] == 3002)
    assert (event["status"], event["user"]["name"]) == ("Failure", "unknown")


async def test_a_sink_that_is_away_is_named_and_the_service_is_ready(watched: Watched, rest: httpx.AsyncClient) -> None:
    async with asyncio.timeout(120):
        while (await parts(rest)).get("audit sink gone", {}).get("good", True):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.2)

    answer = await rest.get("/ready?writes=1")
    assert answer.status_code == 200
    seen = await parts(rest)
    assert seen["audit sink disk"]["good"]
    assert seen["audit sink gone"]["detail"].startswith("it takes no audit events; ")
    assert "127.0.0.1:1" not in answer.text


async def parts(rest: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in (await rest.get("/ready")).json().get("parts", [])}
