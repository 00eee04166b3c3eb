"""An issuer's keys over HTTP: its discovery document (OpenID Connect Discovery 1.0, RFC 8414), then its JWK set."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx

from afdp.errors import InvalidArgument, Unavailable
from afdp.formats.canonical import strict_json
from afdp.notary.identity.keys import Jwk
from afdp.urls import check_private_url

_MAX_BYTES = 256 * 1024
_TIMEOUT = 5.0


class HttpProvider:
    """Follows no redirect, and believes nothing that is not what it asked for.

    Args:
        issuer: whose keys; the discovery document must say so itself (RFC 8414, section 3.3).
        discovery: the URL of that document; empty: there is none, and `keys` is known.
        keys: the URL of the JWK set; empty: discovery tells it.
        ca_file: the authorities of its certificate, PEM; None: the system's.
        token_file: a bearer token that it wants to see, read each time; None: none.
    """

    def __init__(
        self, issuer: str, discovery: str, keys: str, ca_file: Path | None = None, token_file: Path | None = None
    ) -> None:
        self._issuer = issuer
        self._discovery = discovery
        self._keys = keys
        self._ca_file = ca_file
        self._token_file = token_file

    async def fetch(self) -> Sequence[Jwk]:
        """All keys that are published now.

        Raises:
            Unavailable: for the operator, with what went wrong.
        """
        try:
            # The files are read each time: a renewed authority needs no restart.
            tls = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca_file)
            headers = await asyncio.to_thread(self._headers)
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"its authorities' certificates or its token cannot be read: {error}") from None
        async with httpx.AsyncClient(verify=tls, follow_redirects=False, timeout=_TIMEOUT, headers=headers) as client:
            url = self._keys or await self._discovered(client)
            found = (await _get(client, url)).get("keys")
        if not isinstance(found, list):
            raise Unavailable("its keys are no JWK set")
        return [key for key in found if isinstance(key, dict)]

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        document = await _get(client, self._discovery)
        if document.get("issuer") != self._issuer:
            raise Unavailable("its discovery document is of another issuer")
        try:
            return check_private_url(str(document.get("jwks_uri", "")))
        except ValueError as error:
            raise Unavailable(f"its discovery document has a jwks_uri that {error}") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        return headers


class KeyFile:
    """An issuer's keys from a file, a JWK set, where the issuer itself cannot be reached."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def fetch(self) -> Sequence[Jwk]:
        """All keys that stand there now.

        Raises:
            Unavailable: it cannot be read.
        """
        try:
            found = _object(await asyncio.to_thread(self._file.read_bytes)).get("keys")
        except OSError as error:
            raise Unavailable(f"{self._file} cannot be read: {error.strerror}") from None
        if not isinstance(found, list):
            raise Unavailable(f"{self._file} is no JWK set")
        return [key for key in found if isinstance(key, dict)]


async def _get(client: httpx.AsyncClient, url: str) -> dict[str, object]:
    try:
        async with client.stream("GET", url) as reply:
            if reply.status_code != 200:
                raise Unavailable(f"{url} answers {reply.status_code}")
            if reply.headers.get("content-encoding", "identity").lower() != "identity":
                raise Unavailable(f"{url} gives a compressed answer, which nobody asked for")
            body = bytearray()
            async for piece in reply.aiter_raw():
                body += piece
                if len(body) > _MAX_BYTES:
                    raise Unavailable(f"{url} gives more than {_MAX_BYTES} bytes")
    except httpx.HTTPError as error:
        raise Unavailable(f"{url} cannot be reached: {type(error).__name__}") from None
    return _object(bytes(body))


def _object(data: bytes) -> dict[str, object]:
    try:
        value = strict_json(data)
    except InvalidArgument:
        raise Unavailable("its answer is not JSON") from None
    if not isinstance(value, dict):
        raise Unavailable("its answer is no JSON object")
    return value
