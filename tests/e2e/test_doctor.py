"""`afdp doctor` on a whole stack: what is wrong is named, with what to do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio

from afdp.embedded.stack import Stack, StackOptions, running_stack
from tests.conftest import open_folder
from tests.e2e.answers import until_ready
from tests.e2e.conftest import free_offset

Findings = dict[tuple[str, str], dict[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack() -> AsyncIterator[Stack]:
    with open_folder() as folder:
        async with running_stack(StackOptions(folder / "data", free_offset())) as running:
            yield running


async def doctor(*arguments: str) -> Findings:
    """What it finds. That this machine's clock is not synchronised is no fault of the stack's."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "doctor", "--json", *arguments), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    document = json.loads(out)
    assert process.returncode == (0 if document["good"] else 1)
    return {(each["area"], each["name"]): each for each in document["findings"]}


def wrong(findings: Findings) -> set[tuple[str, str]]:
    bad = {name for name, finding in findings.items() if not finding["good"]}
    assert all(findings[name]["detail"] for name in bad)
    return bad - {("signer", "clock")}


async def test_a_stack_that_runs_is_good_from_outside_and_from_its_folder(own_stack: Stack) -> None:
    findings = await doctor("--url", own_stack.url)
    assert wrong(findings) == set()
    assert {
        *(("signer", "key afdp-file-key"), ("signer", "files"), ("signer", "timestamp authority")),
        *(("notary", "trust root"), ("transparency", "log"), ("metadata", "service"), ("gateway", "clock")),
    } <= set(findings)

    findings = await doctor("--data-dir", str(own_stack.data_dir))
    assert wrong(findings) == set()
    assert "in use" in findings["folder", "data"]["detail"]
    assert "notary.localhost at" in findings["signer", "memory"]["detail"]


async def test_a_signer_that_hangs_is_named(own_stack: Stack) -> None:
    pid = own_stack.server("signer").pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(4)  # the notary asks each second, with two to answer
        findings = await doctor("--url", own_stack.url)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert {("signer", "service"), ("signer", "status"), ("stack", "ready")} <= wrong(findings)
    assert "does not answer" in findings["signer", "service"]["detail"]
    assert "AFDP_SIGNER_ADDRESS" in findings["signer", "service"]["remedy"]


async def test_a_key_that_is_revoked_and_not_rotated_is_named_until_it_is(own_stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=own_stack.url, trust_env=False, timeout=30) as rest:
        await until_ready(rest)
        body = {"reason": "left on a train"}
        (await rest.post("/api/v1/keys/afdp-file-key:1:revoke", json=body)).raise_for_status()
        findings = await doctor("--url", own_stack.url)
        assert wrong(findings) == {("signer", "key afdp-file-key")}
        assert findings["signer", "key afdp-file-key"]["remedy"].endswith("afdp keys rotate --key afdp-file-key")

        (await rest.post("/api/v1/keys:rotate", json={"name": "afdp-file-key"})).raise_for_status()
        assert wrong(await doctor("--url", own_stack.url)) == set()


async def test_what_the_signer_stands_on_is_in_ready_without_what_is_for_operators_only(own_stack: Stack) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=own_stack.url, trust_env=False) as rest:
        while True:
            parts = {each["name"]: each for each in (await rest.get("/ready")).json().get("parts", ())}
            if parts:
                break
            await asyncio.sleep(0.2)

    assert parts["clock"]["detail"]
    assert parts["files"] == {"name": "files", "good": True, "detail": ""}
    assert str(own_stack.data_dir) not in json.dumps(parts)
