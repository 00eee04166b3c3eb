"""A whole stack whose log is a Rekor 2 that others run, with a Rekor 1 beside it: signed at once, logged later."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
import yaml

from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.encoding import from_b64
from afdp.formats.receipt import Receipt
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.foreign_verifiers import Verifiers
from tests.rekor_front import Reply
from tests.rekor_servers import Rekor1, Rekor2, running_rekor2

SIGN = "/api/v1/evidence/sign"
RULES = (Path(__file__).parents[2] / "deploy" / "monitoring" / "alerts.yaml").read_text()
Tool = Callable[[str], Path]


@dataclass(frozen=True, slots=True)
class Place:
    """The stack and the logs that it writes to."""

    stack: Stack
    rekor: Rekor2
    old: Rekor1
    rest: httpx.AsyncClient

    async def sign(self, **asked: Any) -> dict[str, Any]:
        answer = await self.rest.post(SIGN, json={"evidence_package": package(), **asked})
        receipt: dict[str, Any] = answer.raise_for_status().json()["receipt"]
        return receipt

    async def receipt(self, receipt_id: str) -> dict[str, Any]:
        found = (await self.rest.get(f"/api/v1/receipts/{receipt_id}")).raise_for_status().json()
        return found.get("receipt", found)  # type: ignore[no-any-return]

    async def until(self, receipt_id: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The receipt once it is as it shall be."""
        ends = time.monotonic() + 150  # after a log was away the next try may be 90 seconds later
        while not good(found := await self.receipt(receipt_id)):
            assert time.monotonic() < ends, (found["state"], await self.part())
            await asyncio.sleep(0.1)
        return found

    async def until_served(self, receipt_id: str) -> dict[str, Any]:
        """The receipt once it is logged, from a stack of which something was killed."""
        async with asyncio.timeout(120):
            while True:
                try:
                    found = await self.receipt(receipt_id)
                    if is_logged(found):
                        return found
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.2)

    async def rows(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.stack.database_url, server_settings={"search_path": "afdp_metadata"})
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    async def part(self) -> dict[str, Any]:
        """What the notary says of the log, asked now."""
        parts = (await self.rest.get("/api/v1/status")).raise_for_status().json()["parts"]
        return next(each for each in parts if each["name"] == "log rekor")

    async def until_part(self, *, good: bool) -> dict[str, Any]:
        """What it says once it says that it is well, or not."""
        async with asyncio.timeout(60):
            while True:
                part = await self.part()
                if part["good"] is good:
                    return part
                await asyncio.sleep(0.2)

    async def until_measured(self, *wanted: str) -> None:
        """Returns once the metrics of the notary and of the log service have all of this in them."""
        ends, missing = time.monotonic() + 60, list(wanted)
        while missing:
            served = ""
            for service in ("notary", "transparency"):
                port = self.stack.settings(service)["AFDP_METRICS_PORT"]
                served += (await self.rest.get(f"http://127.0.0.1:{port}/metrics")).text
            missing = [each for each in wanted if each not in served]
            assert not missing or time.monotonic() < ends, f"no metric says {missing}"
            await asyncio.sleep(0.2)

    def kill(self, service: str) -> None:
        os.kill(self.stack.server(service).pid, signal.SIGKILL)


def is_logged(receipt: dict[str, Any]) -> bool:
    return receipt["state"] == "logged"


def is_in_both(receipt: dict[str, Any]) -> bool:
    return is_logged(receipt) and len(receipt["more_bundles"]) == 1


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tool: Tool, rekor1: Rekor1) -> AsyncIterator[Place]:
    async with AsyncExitStack() as entered:
        folder = entered.enter_context(open_folder())
        rekor = await entered.enter_async_context(running_rekor2(tool, entered.enter_context(open_folder())))
        logs = [
            {"name": "rekor", "url": rekor.url, "public_key": str(rekor.public_key_file), "origin": rekor.origin},
            {
                "name": "old", "api_version": 1, "url": rekor1.url, "public_key": str(rekor1.public_key_file),
                "origin": rekor1.name, "whole_envelopes": True,
            },
        ]  # fmt: skip
        settings = {
            "notary": {
                "AFDP_LOG": "rekor",
                "AFDP_MORE_LOGS": "old",
                "AFDP_EXTERNAL_LOG_TIMEOUT_SECONDS": "5",
                **NO_KEY_RECORDS,
            },
            "transparency": {"AFDP_EXTERNAL_LOGS": json.dumps(logs)},
        }
        options = StackOptions(folder / "data", free_offset(), settings=settings)
        stack = await entered.enter_async_context(running_stack(options))
        client = httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=60)
        yield Place(stack, rekor, rekor1, await entered.enter_async_context(client))


async def test_a_receipt_goes_out_signed_and_is_logged_in_place_with_both_logs_entries(place: Place) -> None:
    signed = await place.sign()
    logged = await place.until(signed["receipt_id"], is_in_both)
    trust = await fetch_trust(place.rest)

    assert (signed["state"], signed["rekor_server_url"]) == ("signed", place.rekor.url)
    assert {log.origin for log in trust.logs} == {"notary.localhost", "rekor.example", "rekor1.example"}
    result = verify_receipt(Receipt.from_object(logged), trust)
    assert result.verified, result.failures()
    passed = [check.detail for check in result.checks if check.name in ("log", "checkpoint")]
    assert passed[1::2] == ["signed by rekor.example", "signed by rekor1.example"]


async def test_who_waits_for_the_log_gets_the_logged_receipt(place: Place) -> None:
    receipts = await asyncio.gather(*(place.sign(wait_for="logged") for _ in range(5)))

    assert [each["state"] for each in receipts] == ["logged"] * 5
    assert len({each["log_index"] for each in receipts}) == 5


async def test_cosign_and_rekor_cli_verify_what_went_to_both_logs(place: Place, tool: Tool, tmp_path: Path) -> None:
    artifact = b"the weights of a model"
    (tmp_path / "model.bin").write_bytes(artifact)
    evidence = package(artifacts=[{"name": "model.bin", "hash_sha256": sha256(artifact).hexdigest()}])
    answer = await place.rest.post(SIGN, json={"evidence_package": evidence})
    receipt = await place.until(answer.raise_for_status().json()["receipt"]["receipt_id"], is_in_both)
    files = (await place.rest.get("/api/v1/trust-root")).json()["files"]
    for file in files:
        (tmp_path / "trust" / file["name"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trust" / file["name"]).write_text(file["content"])
    verifiers = Verifiers(tool, tmp_path)

    for bundle in (receipt["bundle"], *receipt["more_bundles"]):
        verifiers.write({**receipt, "bundle": bundle})
        assert await asyncio.to_thread(verifiers.cosign, key=receipt["key_id"])
    verifiers.write(receipt)
    assert await asyncio.to_thread(verifiers.afdp)
    body = json.loads(
        from_b64(receipt["more_bundles"][0]["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"])
    )
    found = await asyncio.create_subprocess_exec(
        *(tool("rekor-cli"), "search", "--sha", body["spec"]["payloadHash"]["value"], "--rekor_server", place.old.url),
        env={"HOME": os.fspath(tmp_path)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await found.communicate()
    assert found.returncode == 0
    assert output.strip()


async def test_while_the_log_is_away_notarisation_goes_on_and_the_backlog_is_worked_off_when_it_returns(
    place: Place,
) -> None:
    await place.rekor.kill()
    signed = await asyncio.gather(*(place.sign() for _ in range(20)))
    part = await place.until_part(good=False)
    await place.until_measured('afdp_log_away{log="rekor"} 1.0', 'afdp_log_backlog_records{log="rekor"} 20.0')
    await place.rekor.start()

    logged = [await place.until(each["receipt_id"], is_logged) for each in signed]
    assert "takes no entries" in part["detail"]
    assert len({each["log_index"] for each in logged}) == 20
    await place.until_part(good=True)
    ready = (await place.rest.get("/ready")).json()["parts"]
    assert "log rekor" in {each["name"] for each in ready}


async def test_who_waits_for_a_log_that_stays_away_gets_the_signed_receipt(place: Place) -> None:
    for _ in range(6):
        place.rekor.front.next(Reply(502))
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"evidence_package": package()}
    first = (await place.rest.post(SIGN, json=body, headers=key)).raise_for_status().json()["receipt"]
    again = (await place.rest.post(SIGN, json={**body, "wait_for": "logged"}, headers=key)).raise_for_status().json()

    assert first["state"] == "signed"
    assert (again["receipt"]["receipt_id"], again["receipt"]["state"]) == (first["receipt_id"], "logged")
    place.rekor.front.well()


@pytest.mark.parametrize("victim", ["notary", "transparency", "postgres"])
async def test_killed_while_entries_are_on_their_way_nothing_is_lost_and_nothing_is_logged_twice(
    place: Place, victim: str
) -> None:
    signed = await asyncio.gather(*(place.sign() for _ in range(12)))
    place.kill(victim)

    logged = [await place.until_served(each["receipt_id"]) for each in signed]
    indices = [each["log_index"] for each in logged]
    entries = await place.rows("SELECT log_index FROM log_entry WHERE origin = 'rekor.example'")
    size = int((await place.rest.get(f"{place.rekor.url}/api/v2/checkpoint")).text.splitlines()[1])
    assert len(set(indices)) == len(indices)
    assert len(entries) == size


async def test_every_metric_that_an_alert_about_logs_looks_at_is_there(place: Place) -> None:
    groups = [group for group in yaml.safe_load(RULES)["groups"] if group["name"] != "afdp-access"]
    expressions = " ".join(each["expr"] for group in groups for each in group["rules"])
    names = set(re.findall(r"afdp_[a-z_]+", expressions))
    # Without witnesses, a mirror, sinks and Redis there are none of these metrics; a monitor's are in its textfile.
    elsewhere = "cosigned|mirror|monitor|audit_timestamp|audit_sink|record_cache"
    await place.until_measured(*(f"\n{name}" for name in names if not re.search(elsewhere, name)))


async def test_the_reconciler_proves_every_place_in_logs_of_others(place: Place) -> None:
    """After all that was killed before; and one whose proof somebody changed is named."""
    receipt = await place.sign(wait_for="logged")
    await place.until(receipt["receipt_id"], is_in_both)

    async def reconcile(code: int) -> dict[str, Any]:
        command = (sys.executable, "-m", "afdp.cli", "reconcile", "--check", "--json")
        environment = {**os.environ, **place.stack.settings("notary")}
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert process.returncode == code, out.decode()
        found: dict[str, Any] = json.loads(out)
        return found

    assert (await reconcile(0))["clean"]
    for table in ("log_entry", "further_entry"):
        of = f"{table} SET proof = %s WHERE receipt_id = '{receipt['receipt_id']}'"
        await place.rows("UPDATE " + of % "proof || sha256('')")
        [gap] = (await reconcile(1))["gaps"]
        assert (gap["kind"], gap["subject"]) == ("misplaced", receipt["receipt_id"])
        await place.rows("UPDATE " + of % "substr(proof, 1, octet_length(proof) - 32)")
