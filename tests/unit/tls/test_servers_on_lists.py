"""A client of our own services holds servers to the revocation lists, over HTTP."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest

from afdp.certs.authority import Authority
from afdp.certs.names import Names
from afdp.tls.files import TlsFiles
from afdp.tls.http import ClientContext
from afdp.tls.material import TlsPaths

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def test_a_server_whose_certificate_is_revoked_is_not_spoken_to(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "afdp.internal")
    own, servers = (
        authority.issue(name, Names.of_service(name, "afdp.internal", Names())) for name in ("gateway", "transparency")
    )
    files = TlsFiles(TlsPaths(own.cert, own.key, authority.file, crl=authority.list_file), {})
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(servers.cert, servers.key)
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=listening)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with httpx.AsyncClient(verify=ClientContext.following(files), trust_env=False, timeout=60) as client:
            assert (await client.get(url)).status_code == 200
            authority.revoke("transparency")
            files.refresh()
            with pytest.raises(httpx.ConnectError, match="the server's certificate is revoked"):
                await client.get(url)

    assert len(asked) == 1
