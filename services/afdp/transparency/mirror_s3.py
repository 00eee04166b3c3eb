"""A mirror in a bucket that speaks S3, through obstore, which the extra `mirror` brings."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from afdp.errors import FailedPrecondition, NotaryError, Unavailable

_CONNECT_TIMEOUT, _TIMEOUT = "5s", "60s"
_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")

_TEXT = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "public, no-cache, no-transform"}
_TILE = {"Content-Type": "application/octet-stream"}
_FULL = {**_TILE, "Cache-Control": "public, max-age=31536000, immutable, no-transform"}
_PARTIAL = {**_TILE, "Cache-Control": "public, max-age=60, no-transform"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """Which bucket, and how it is reached; what is empty comes from the environment, as everywhere with S3.

    Attributes:
        prefix: of all keys, without a slash at its end.
        endpoint: the URL of a store that is not Amazon's.
        key_id, secret: an access key.
        ca: PEM of the authority of the store's certificate.
    """

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    key_id: str = ""
    secret: str = field(default="", repr=False)
    ca: bytes = b""


class S3Sink:
    """Objects with the headers that the read path has, so that a CDN before the bucket does the right thing."""

    def __init__(self, bucket: Bucket) -> None:
        config = {
            "endpoint": bucket.endpoint,
            "region": bucket.region,
            "access_key_id": bucket.key_id,
            "secret_access_key": bucket.secret,
        }
        self._store = S3Store(
            bucket.name,
            prefix=bucket.prefix or None,
            config={name: value for name, value in config.items() if value},  # type: ignore[arg-type]
            client_options={
                "allow_http": bucket.endpoint.startswith("http://"),
                "connect_timeout": _CONNECT_TIMEOUT,
                "timeout": _TIMEOUT,
                **({"root_certificate": bucket.ca} if bucket.ca else {}),
            },
            retry_config={"max_retries": 2},
        )

    async def read(self, path: str) -> bytes | None:
        """An object's bytes."""
        async with _translating():
            try:
                found = await obstore.get_async(self._store, path)
            except FileNotFoundError:
                return None
            return bytes(await found.bytes_async())

    async def write(self, path: str, data: bytes) -> None:
        """An object in the place of the one that was there."""
        async with _translating():
            await obstore.put_async(self._store, path, data, attributes=_attributes(path), use_multipart=False)

    async def write_once(self, path: str, data: bytes) -> None:
        """An object that never changes: put on the condition that there is none."""
        try:
            async with _translating():
                await obstore.put_async(self._store, path, data, attributes=_attributes(path), mode="create")
        except AlreadyExistsError:
            if await self.read(path) != data:
                await self.write(path, data)

    async def remove_under(self, path: str) -> None:
        """All objects whose key begins so."""
        async with _translating():
            async for some in obstore.list(self._store, path):
                await obstore.delete_async(self._store, [_relative(each["path"], path) for each in some])


def _relative(key: str, path: str) -> str:
    """A key as the store takes it, which gives it with its own prefix."""
    return key[key.index(path) :]


def _attributes(path: str) -> dict[str, str]:
    if not path.startswith("tile/"):
        return _TEXT
    return _PARTIAL if ".p/" in path else _FULL


@asynccontextmanager
async def _translating() -> AsyncIterator[None]:
    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        raise _translated(error) from None


def _translated(error: Exception) -> NotaryError:
    """What the store says of itself: its code, and not its text, which may quote the request."""
    code = _CODE.search(str(error))
    said = f" ({code[1]})" if code else ""
    if isinstance(error, FileNotFoundError):
        return FailedPrecondition(f"the mirror's bucket is not there{said}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return FailedPrecondition(f"the mirror's bucket does not let us in{said}")
    return Unavailable(f"the mirror's bucket cannot be used{said}", retry_after=5.0)
