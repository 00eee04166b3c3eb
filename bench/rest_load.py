"""Load over REST: notarisations, or requests that are next to empty."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import orjson
import uvloop

from afdp.formats.trust import TrustRoot
from bench.child import leave_result, result_of
from bench.figures import Run, run_of
from bench.http_load import put_under_load
from bench.packages import evidence
from bench.verified import require_verified


async def run_rest(
    url: str, kind: str, seconds: float, connections: int, trust: TrustRoot, state: str = "logged", token: str = ""
) -> Run:
    """One run in a process of its own; every answer is verified after it."""
    result = await result_of("bench.rest_load", url, kind, str(seconds), str(connections), token)
    if kind == "sign":
        answers = [orjson.loads(body)["receipt"] for body in result["answers"]]
        assert require_verified(answers, trust, state) == len(result["latencies"])
    return run_of(result["latencies"], result["seconds"])


def _requests(host: str, kind: str, seconds: float, token: str) -> Iterator[bytes]:
    """Encoded before the run: a client's own cost is not the service's."""
    if kind == "empty":
        return itertools.repeat(f"GET /ready HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    ready = [_request(host, token) for _ in range(int(seconds * 2500))]
    return itertools.chain(ready, (_request(host, token) for _ in itertools.count()))


def _request(host: str, token: str) -> bytes:
    body = orjson.dumps({"evidence_package": evidence()})
    credentials = f"authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST /api/v1/evidence/sign HTTP/1.1\r\nhost: {host}\r\n{credentials}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(url: str, kind: str, seconds: float, connections: int, token: str) -> dict[str, object]:
    requests = _requests(urlsplit(url).netloc, kind, seconds, token)
    load = await put_under_load(url, requests, 200, seconds, connections)
    answers = [body.decode() for body in load.bodies] if kind == "sign" else []
    return {"seconds": load.seconds, "cpu": load.cpu, "latencies": load.latencies, "answers": answers}


if __name__ == "__main__":
    file, url, kind, seconds, connections, *more = sys.argv[1:]
    token = more[0] if more else ""
    leave_result(file, uvloop.run(_load(url, kind, float(seconds), int(connections), token)))
