"""Search, history and export through the whole stack: every line of an export verifies offline, whatever happens."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from afdp.client import AsyncNotaryClient, NotaryClient
from afdp.embedded.stack import Stack
from afdp.errors import InvalidArgument
from afdp.formats.csv_lines import csv_text
from afdp.messages import notary as pb
from afdp.messages.notary import NotaryServiceClient
from tests.e2e.conftest import ROOT
from tests.e2e.evidence import package

EXPORT = "/api/v1/evidence:export"
RUN = os.urandom(8).hex()
ARTIFACT = os.urandom(64)
HASH = sha256(ARTIFACT).hexdigest()
HOSTILE = '=HYPERLINK("http://evil.example"),\r\n"x"; \'+1'
COUNT = 23


def afdp(stack: Stack, *arguments: str | Path, code: int = 0) -> str:
    command = [sys.executable, "-m", "afdp.cli", "--url", stack.url, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
async def receipts(stack: Stack) -> list[str]:
    """The receipts of what happened to one artifact, in order."""
    made = []
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest:
        for number in range(COUNT):
            body = package(
                event_type=f"ai.model.step{number % 2}",
                actor={"actor_type": "human", "id": HOSTILE if number == 1 else "alice", "auth_provider": ""},
                artifacts=[{"name": "model.bin", "uri": "", "hash_sha256": HASH}],
                metadata={"search": {"run": RUN, "step": number}},
            )
            answer = await rest.post("/api/v1/evidence/sign", json={"evidence_package": body})
            made.append(answer.raise_for_status().json()["receipt"]["receipt_id"])
    return made


async def test_a_search_by_anything_known_finds_it_over_rest_and_grpc(
    receipts: list[str], rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    for filters in (
        {"artifact_hash": HASH},
        {"metadata": f"search.run={RUN}"},
        {"artifact_hash": HASH, "actor_type": "human", "submitter": "anonymous"},
    ):
        found = (await rest.get("/api/v1/evidence", params=filters)).raise_for_status().json()["evidence"]
        assert [each["receipt_id"] for each in found] == receipts[::-1]
    both = {"metadata": [f"search.run={RUN}", "search.step=3"], "oldest_first": "true"}
    [one] = (await rest.get("/api/v1/evidence", params=both)).raise_for_status().json()["evidence"]
    assert one["receipt_id"] == receipts[3]
    assert one["actor_type"] == "human"
    place = pb.SearchEvidenceRequest(log_index=one["log_index"], log_origin=one["log_origin"], key_id=one["key_id"])
    assert [each.receipt_id for each in (await notary.search_evidence(place)).evidence] == [receipts[3]]


async def test_a_place_in_metadata_that_is_not_searchable_is_refused_by_its_name(
    rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    for path in ("/api/v1/evidence", EXPORT):
        answer = await rest.get(path, params={"metadata": ["search.run=1", "salary=1"]})
        assert answer.status_code == 400
        assert [each["field"] for each in answer.json()["errors"]] == ["metadata[1]"]
    with pytest.raises(InvalidArgument) as refused:
        await anext(notary.export_evidence(pb.ExportEvidenceRequest(metadata=["x"])))
    assert [each.field for each in refused.value.fields] == ["metadata[0]"]


async def test_every_line_of_an_export_verifies_offline_alone_and_with_the_rest(
    receipts: list[str], stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(ARTIFACT)
    afdp(stack, "trust", "export", "-o", tmp_path / "trust")
    file = tmp_path / "all.ndjson"
    afdp(stack, "export", "--artifact", tmp_path / "model.bin", "--oldest-first", "-o", file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["receipt_id"] for line in lines] == receipts
    assert afdp(stack, "verify", "--trust", tmp_path / "trust", file).strip() == f"{COUNT} verified"

    one = tmp_path / "line.json"
    one.write_bytes(lines[5])
    said = json.loads(afdp(stack, "verify", "--trust", tmp_path / "trust", "--json", one))
    assert said["verified"]
    forged = json.loads(lines[5])
    forged["evidence_package"]["actor"]["id"] = "mallory"
    file.write_bytes(b"".join(lines[:3]) + json.dumps(forged).encode() + b"\n{}\n" + lines[6])
    told = afdp(stack, "verify", "--trust", tmp_path / "trust", file, code=2)
    assert "4 verified, 1 NOT verified, 1 not readable" in told
    assert f"{file}:4 receipt {receipts[5]}" in told


async def test_csv_says_what_was_given_and_no_cell_begins_a_formula(
    receipts: list[str], rest: httpx.AsyncClient
) -> None:
    answer = await rest.get(EXPORT, params={"format": "csv", "artifact_hash": HASH, "oldest_first": "true"})

    assert answer.raise_for_status().headers["content-type"].startswith("text/csv")
    again = await rest.get(EXPORT, params=answer.request.url.params, headers={"Last-Event-ID": "of-another-stream"})
    assert again.text == answer.text
    head, *rows = csv.reader(io.StringIO(answer.text, newline=""), strict=True)
    table = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["receipt_id"] for row in table] == receipts
    assert csv_text(table[1]["actor_id"]) == HOSTILE
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    rest_of = await rest.get(
        EXPORT, params={"format": "csv", "artifact_hash": HASH, "oldest_first": "true", "after": receipts[2]}
    )
    assert answer.text.endswith(rest_of.text)
    assert [line[0] for line in csv.reader(io.StringIO(rest_of.text, newline=""))] == receipts[3:]


async def test_an_export_goes_on_from_any_receipt_over_grpc_and_rest(
    receipts: list[str], stack: Stack, notary: NotaryServiceClient
) -> None:
    request = pb.ExportEvidenceRequest(artifact_hash=HASH, oldest_first=True, after=receipts[9])
    told = [each async for each in notary.export_evidence(request)]
    assert told[-1].last_receipt_id == receipts[-1]
    lines = b"".join(each.ndjson or b"" for each in told)
    assert [json.loads(line)["receipt_id"] for line in lines.splitlines()] == receipts[10:]

    with NotaryClient(stack.url) as client:
        found = client.export_evidence(after=receipts[9], artifact_hash=HASH, oldest_first=True)
        assert b"".join(found) == lines
    with NotaryClient.over_grpc(f"127.0.0.1:{stack.port('notary')}") as client:
        assert b"".join(client.export_evidence(after=receipts[9], artifact_hash=HASH, oldest_first=True)) == lines
    async with AsyncNotaryClient(stack.url) as client:
        again = [
            each async for each in client.export_evidence(after=receipts[9], artifact_hash=HASH, oldest_first=True)
        ]
        assert b"".join(again) == lines


async def test_who_goes_away_in_the_midst_of_exports_leaves_their_places_to_others(
    receipts: list[str], rest: httpx.AsyncClient, notary: NotaryServiceClient
) -> None:
    """There are eight places, and half of them for one tenant."""
    request = pb.ExportEvidenceRequest(artifact_hash=HASH)
    for _ in range(12):
        async with aclosing(notary.export_evidence(request)) as answers:
            await anext(answers)
        async with rest.stream("GET", EXPORT, params={"artifact_hash": HASH}) as answer:
            assert answer.status_code in (200, 429)
            await anext(answer.aiter_bytes())
    async with asyncio.timeout(60):
        while True:  # until the last of them is known to be gone
            answer = await rest.get(EXPORT, params={"artifact_hash": HASH})
            if answer.status_code != 429:
                break
            await asyncio.sleep(0.1)
    assert len(answer.raise_for_status().content.splitlines()) == COUNT


async def test_search_and_history_tell_people_what_happened_in_order(
    receipts: list[str], stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(ARTIFACT)
    for given in (tmp_path / "model.bin", HASH):
        told: dict[str, Any] = json.loads(afdp(stack, "history", given, "--json"))
        assert [each["receipt_id"] for each in told["evidence"]] == receipts
    text = afdp(stack, "history", HASH)
    assert text.index(receipts[0]) < text.index(receipts[-1])
    assert f"{COUNT} events" in text
    assert "\r" not in text
    text = afdp(stack, "search", "--actor", "human:alice", "--metadata", f"search.run={RUN}", "--limit", "5")
    assert receipts[-1] in text
    assert "5 found, and there are more" in text
    assert "0 found" in afdp(stack, "search", "--artifact", "0" * 64)
    afdp(stack, "search", "--metadata", "salary=1", code=2)


async def test_what_is_looked_for_stands_in_no_log(receipts: list[str], rest: httpx.AsyncClient, stack: Stack) -> None:
    secret = f"person-{os.urandom(8).hex()}"
    for path in ("/api/v1/evidence", EXPORT):
        for name in ("actor_id", "submitter", "nonsense"):
            await rest.get(path, params={name: secret, "metadata": f"search.run={secret}"})

    logs = list((stack.data_dir / "logs").iterdir())
    assert logs
    assert not [file.name for file in logs if secret in file.read_text(errors="replace")]
