"""The log's read path through the gateway: the same bytes and headers as at the log itself."""

from __future__ import annotations

import httpx

from afdp.embedded.stack import LOG_PORT, PORTS, Stack
from afdp.formats.note import Checkpoint, Note
from afdp.formats.tiles import tiles_at
from tests.e2e.evidence import package

SIGN = "/api/v1/evidence/sign"
SAME = (
    "content-type",
    "content-length",
    "cache-control",
    "etag",
    "accept-ranges",
    "access-control-allow-origin",
    "cross-origin-resource-policy",
    "x-content-type-options",
)


async def test_a_reader_gets_the_same_through_the_gateway_as_from_the_log(
    stack: Stack, rest: httpx.AsyncClient
) -> None:
    (await rest.post(SIGN, json={"evidence_package": package()})).raise_for_status()
    size = Checkpoint.parse(Note.parse((await rest.get("/log/checkpoint")).content).text).size
    *_, tile = tiles_at(size)
    *_, bundle = tiles_at(size, None)
    own = f"http://127.0.0.1:{LOG_PORT + stack.port('gateway') - PORTS['gateway']}"
    async with httpx.AsyncClient(trust_env=False) as client:
        for path in (tile.path(), bundle.path(), "vkey"):
            asked = {"Accept-Encoding": "gzip, br", "Range": "bytes=0-3"}
            direct, proxied = await client.get(f"{own}/{path}"), await rest.get(f"/log/{path}", headers=asked)

            assert (direct.status_code, proxied.status_code) == (200, 200)
            assert proxied.content == direct.content
            assert {name: proxied.headers[name] for name in SAME} == {name: direct.headers[name] for name in SAME}
            assert "no-transform" in proxied.headers["cache-control"]
            head = await rest.head(f"/log/{path}")
            assert (head.status_code, head.headers["content-length"]) == (200, direct.headers["content-length"])
            again = await rest.get(f"/log/{path}", headers={"If-None-Match": direct.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == direct.headers["etag"]
