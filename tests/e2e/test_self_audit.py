"""A bit flipped at rest under a whole stack: writing stops and says where, reading and verifying go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx

from afdp.embedded.stack import StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.verify.receipts import verify_receipt
from tests.e2e.conftest import NO_KEY_RECORDS, fetch_trust, free_offset
from tests.e2e.evidence import package

SIGN = "/api/v1/evidence/sign"
FLIP = "UPDATE afdp_log.entry SET body = set_bit(body, 5, 1 - get_bit(body, 5)) WHERE leaf_index = 1"


async def until(client: httpx.AsyncClient, path: str, holds: Callable[[httpx.Response], bool]) -> httpx.Response:
    """The first answer of which something holds."""
    async with asyncio.timeout(30):
        while not holds(answer := await client.get(path)):  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.1)
    return answer


async def test_writing_stops_and_ready_names_the_place_while_reading_and_verifying_go_on(data_folder: Path) -> None:
    settings = {"transparency": {"AFDP_LOG_AUDIT_INTERVAL_SECONDS": "0.2"}, "notary": NO_KEY_RECORDS}
    options = StackOptions(data_folder / "data", free_offset(), settings=settings)
    async with (
        running_stack(options) as stack,
        httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest,
    ):
        trust = await fetch_trust(rest)
        sent = [{"evidence_package": package()} for _ in range(3)]
        signed = [(await rest.post(SIGN, json=each)).raise_for_status().json()["receipt"] for each in sent]
        database = await asyncpg.connect(stack.database_url)
        try:
            assert await database.execute(FLIP) == "UPDATE 1"
        finally:
            await database.close()

        stopped = await until(rest, "/ready?writes=1", lambda answer: "self-audit" in answer.text)
        assert stopped.status_code == 503
        assert "entry 1 and its stored leaf hash do not belong together" in stopped.json()["detail"]
        reading = await rest.get("/ready")
        assert (reading.status_code, reading.json()["status"]) == (200, "degraded")
        assert (await rest.post(SIGN, json={"evidence_package": package()})).status_code >= 500

        for receipt in signed:
            kept = (await rest.get(f"/api/v1/receipts/{receipt['receipt_id']}")).raise_for_status().json()
            assert verify_receipt(Receipt.from_object(kept.get("receipt", kept)), trust).verified
        assert (await rest.get("/log/checkpoint")).status_code == 200
        assert (await rest.get("/log/tile/0/000.p/3")).status_code == 200
        withheld = await rest.get("/log/tile/entries/000.p/3")
        assert (withheld.status_code, withheld.json()["code"]) == (500, "DATA_LOSS")
        found = await rest.get("/api/v1/evidence", params={"page_size": 10})
        assert len(found.raise_for_status().json()["evidence"]) >= 3
