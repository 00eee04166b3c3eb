"""A stack with a witness: receipts that wait for it are witnessed, and verify with a policy that asks for it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from afdp.witness.folder import open_vkey
from tests.e2e.conftest import free_offset
from tests.e2e.evidence import package
from tests.e2e.test_dev import afdp_dev
from tests.log_rules import rule


def afdp(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "afdp.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SIGN = "/api/v1/evidence/sign"


@rule(7)
async def test_a_receipt_that_waits_is_witnessed_and_verifies_with_a_policy_that_asks_for_it(
    data_folder: Path, tmp_path: Path, tool: Callable[[str], Path]
) -> None:
    folder = data_folder / "data"
    async with afdp_dev(folder, free_offset(), "--witness") as (_, url):
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as rest:
            quick = (await rest.post(SIGN, json={"evidence_package": package()})).raise_for_status().json()["receipt"]
            sent = {"evidence_package": package(), "wait_for": "witnessed"}
            waited = (await rest.post(SIGN, json=sent)).raise_for_status().json()["receipt"]
            again = (await rest.get(f"/api/v1/receipts/{waited['receipt_id']}")).raise_for_status().json()
            later = (await rest.get(f"/api/v1/receipts/{quick['receipt_id']}")).raise_for_status().json()
            async with asyncio.timeout(20):  # the notary's own records may have made the log grow meanwhile
                while "witness.localhost" not in (await rest.get("/log/checkpoint")).text:  # noqa: ASYNC110 - what is waited for is in another process
                    await asyncio.sleep(0.1)
        afdp("--url", url, "trust", "export", "-o", tmp_path / "trust")

    assert (quick["state"], waited["state"]) == ("logged", "witnessed")
    assert again.get("receipt", again)["bundle"] == waited["bundle"]
    assert later.get("receipt", later)["state"] == "witnessed"
    policy = {"require_witnesses": 1, "witnesses": [str(open_vkey(folder / "witness"))]}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    for receipt, code in ((waited, 0), (later.get("receipt", later), 0), (quick, 1)):
        (tmp_path / "receipt.json").write_text(json.dumps(receipt))
        options = ("--trust", tmp_path / "trust", "--policy", tmp_path / "policy.json")
        assert afdp("verify", tmp_path / "receipt.json", *options).returncode == code
    # The exported proof, with the witness's cosignature, holds by an implementation that is not ours.
    (tmp_path / "receipt.json").write_text(json.dumps(waited))
    assert afdp("export", tmp_path / "receipt.json", "-o", tmp_path / "proof").returncode == 0
    log, witness = (tmp_path / "trust/log.vkey").read_text().strip(), str(open_vkey(folder / "witness"))
    theirs = await asyncio.create_subprocess_exec(tool("tlog-proof"), tmp_path / "proof", log, witness)
    assert await theirs.wait() == 0
