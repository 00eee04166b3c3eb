"""Envelopes of ours in a real Rekor 1 with Trillian, read back by its own command line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from afdp.formats.merkle import leaf_hash
from afdp.transparency.external.config import ExternalLogSettings
from tests.integration.rekor.conftest import Open, of_rekor1, submission, submissions
from tests.rekor_servers import Rekor1


async def test_an_envelope_comes_back_with_a_promise_and_a_proof_that_hold(rekor1: Rekor1, open_client: Open) -> None:
    mine = submission()
    async with open_client(of_rekor1(rekor1)) as client:
        first, *_ = await asyncio.gather(*(client.logs.log("old", each) for each in (mine, *submissions(5))))
        again = await client.logs.log("old", mine)

    assert (first.kind, first.version) == ("dsse", "0.0.1")
    assert first.promise
    assert (again.log_index, again.integrated_time) == (first.log_index, first.integrated_time)
    assert first.checkpoint.startswith(f"rekor1.example - {rekor1.tree}\n")


async def test_rekor_cli_verifies_and_finds_what_our_client_wrote(
    rekor1: Rekor1, open_client: Open, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    async with open_client(of_rekor1(rekor1)) as client:
        entry = await client.logs.log("old", submission())
    uuid = leaf_hash(entry.body).hex()
    body = json.loads(entry.body)

    got = await _cli(tool, tmp_path, rekor1, "get", "--uuid", uuid)
    found = await _cli(tool, tmp_path, rekor1, "search", "--sha", body["spec"]["payloadHash"]["value"])

    assert json.loads(got)["LogIndex"] == entry.log_index
    assert uuid in found


def test_a_rekor_1_is_refused_at_the_start_unless_envelopes_may_go_there(rekor1: Rekor1) -> None:
    known = {"name": "old", "api_version": 1, "url": rekor1.url, "public_key": rekor1.public_key_file}
    with pytest.raises(ValidationError, match="gets whole envelopes and its index holds their subjects"):
        ExternalLogSettings.model_validate(known)


async def _cli(tool: Callable[[str], Path], home: Path, rekor: Rekor1, *arguments: str) -> str:
    asked = await asyncio.create_subprocess_exec(
        *(tool("rekor-cli"), *arguments, "--rekor_server", rekor.url, "--format", "json"),
        env={"HOME": os.fspath(home)}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asked.communicate()
    assert asked.returncode == 0, errors.decode()
    return output.decode()
