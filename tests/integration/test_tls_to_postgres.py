"""What we ask of a PostgreSQL that speaks TLS."""

import asyncio
import ssl
import struct
from pathlib import Path

import asyncpg
import pytest

import afdp.postgres.pool  # noqa: F401 - which sets what asyncpg takes where a URL says nothing
from tests.local_tls import TlsAuthority

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@pytest.mark.parametrize(("newest", "spoken"), [(ssl.TLSVersion.TLSv1_2, None), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")])
async def test_a_database_over_tls_speaks_1_3_or_is_not_spoken_to(
    tmp_path: Path, newest: ssl.TLSVersion, spoken: str | None
) -> None:
    """The server is one that gets as far as its handshake: only that is of interest."""
    authority = TlsAuthority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("postgres"))
    context.maximum_version = newest
    versions: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == _SSL_REQUEST
        writer.write(b"S")
        try:
            await writer.start_tls(context)
            versions.append(writer.get_extra_info("ssl_object").version())
        except (OSError, ssl.SSLError):
            versions.append(None)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://afdp@127.0.0.1:{port}/afdp?sslmode=verify-full&sslrootcert={authority.file}"
        with pytest.raises((OSError, asyncpg.PostgresError, ssl.SSLError)):
            await asyncpg.connect(url, timeout=20)

    assert versions[:1] == [spoken]
