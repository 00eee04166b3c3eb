"""Load over REST: receipts that are read, by chance from a list."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import uvloop

from bench.child import leave_result
from bench.http_load import put_under_load


def _requests(host: str, receipt_ids: list[str]) -> Iterator[bytes]:
    while True:
        yield f"GET /api/v1/receipts/{random.choice(receipt_ids)} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


async def _load(url: str, receipt_ids: list[str], seconds: float, connections: int) -> dict[str, object]:
    requests = _requests(urlsplit(url).netloc, receipt_ids)
    load = await put_under_load(url, requests, 200, seconds, connections)
    answers = [body.decode() for body in load.bodies]
    return {"seconds": load.seconds, "cpu": load.cpu, "latencies": load.latencies, "answers": answers}


if __name__ == "__main__":
    file, url, listed, seconds, connections = sys.argv[1:]
    receipt_ids = orjson.loads(Path(listed).read_bytes())
    leave_result(file, uvloop.run(_load(url, receipt_ids, float(seconds), int(connections))))
