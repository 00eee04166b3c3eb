"""The Rekors that other tests stand on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import httpx

from afdp.formats.encoding import b64
from afdp.formats.receipt import Receipt
from tests.local_notary import LocalNotary
from tests.rekor_servers import Rekor1, Rekor2


async def test_a_rekor_2_takes_an_entry_and_its_tiles_are_served(rekor2: Rekor2) -> None:
    receipt = LocalNotary().notarise(logged=False)
    request = rekor_request(receipt)

    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        made = await client.post(f"{rekor2.url}/api/v2/log/entries", json=request)
        again = await client.post(f"{rekor2.url}/api/v2/log/entries", json=request)
        checkpoint = await client.get(f"{rekor2.url}/api/v2/checkpoint")

    assert (made.status_code, again.status_code) == (201, 409)
    assert checkpoint.text.startswith("rekor.example\n")


async def test_a_rekor_1_has_a_log_that_rekor_cli_reads(rekor1: Rekor1, tool: Callable[[str], Path]) -> None:
    asked = await asyncio.create_subprocess_exec(
        tool("rekor-cli"), "loginfo", "--rekor_server", rekor1.url, "--format", "json",
        env={"HOME": os.fspath(rekor1.public_key_file.parent)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asked.communicate()

    assert asked.returncode == 0
    assert rekor1.tree in output.decode()


def rekor_request(receipt: Receipt) -> dict[str, object]:
    """What Rekor 2 is asked to log of a receipt."""
    envelope = receipt.bundle.envelope
    verifier = {"publicKey": {"rawBytes": receipt.public_key_b64}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    signature = {"content": receipt.signature_b64, "verifier": verifier}
    return {"hashedRekordRequestV002": {"digest": b64(sha256(envelope.pae).digest()), "signature": signature}}
