"""What is in the log says nothing of the evidence: who reads all of it learns no value, nor whether two are equal."""

from __future__ import annotations

import base64
import json
from hashlib import sha256

import httpx

from afdp.formats.canonical import strict_json
from afdp.formats.evidence import canonical_evidence, evidence_from_json
from afdp.formats.note import Checkpoint, Note
from afdp.formats.tiles import decode_bundle, tiles_at
from tests.e2e.evidence import package
from tests.log_rules import rule

SIGN = "/api/v1/evidence/sign"


async def entries_of(rest: httpx.AsyncClient) -> list[bytes]:
    """Every entry of the log, as anybody reads them."""
    checkpoint = Checkpoint.parse(Note.parse((await rest.get("/log/checkpoint")).content).text)
    entries: list[bytes] = []
    for ref in tiles_at(checkpoint.size, None):
        entries += decode_bundle((await rest.get(f"/log/{ref.path()}")).raise_for_status().content, ref.width)
    return entries


@rule(8)
async def test_who_reads_the_whole_log_learns_nothing_of_the_evidence(rest: httpx.AsyncClient) -> None:
    secret = "Zaphod Beeblebrox"
    evidence = package(metadata={"patient": secret}, actor={"actor_type": "human", "id": "zaphod@acme.example"})
    receipts = [
        (await rest.post(SIGN, json={"evidence_package": evidence})).raise_for_status().json()["receipt"]
        for _ in range(2)
    ]
    canonical = canonical_evidence(evidence_from_json(strict_json(json.dumps(evidence))))
    artifact = evidence["artifacts"][0]["hash_sha256"]
    log = await entries_of(rest)

    # What can be guessed must not be recognised: not the evidence's hash either, in any spelling, for it has no salt.
    for guessed in (
        *(value.encode() for value in (secret, "zaphod@acme.example", "model.bin", evidence["event_type"])),
        *(spelling for digest in (sha256(canonical).digest(), bytes.fromhex(artifact)) for spelling in spelled(digest)),
    ):
        assert not any(guessed in entry for entry in log), guessed
    entries = [log[receipt["log_index"]] for receipt in receipts]
    assert receipts[0]["evidence_package_hash"] == receipts[1]["evidence_package_hash"] == sha256(canonical).hexdigest()
    assert digest_in(entries[0]) != digest_in(entries[1])


def spelled(digest: bytes) -> tuple[bytes, ...]:
    return digest, digest.hex().encode(), base64.b64encode(digest)


def digest_in(entry: bytes) -> str:
    found: str = json.loads(entry)["spec"]["hashedRekordV002"]["data"]["digest"]
    return found
