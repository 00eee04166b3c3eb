"""The bearer token that a client shows: given as it is, in a file that something keeps fresh, or by a function."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from afdp.errors import InvalidArgument
from afdp.login.store import LoginFile
from afdp.urls import check_private_url

Token = str | Path | Callable[[], str]
"""A token; a file that holds one and nothing else, read again when it changes; or what gives one for each call."""

_FORM = re.compile(r"[\x21-\x7e]+")


class BearerToken:
    """What goes into the `Authorization` header."""

    def __init__(self, token: Token) -> None:
        self._give: Callable[[], str] = _File(token) if isinstance(token, Path) else _constant(token)
        self.may_wait = callable(token)
        """Whether it may take a while to say, so that an event loop asks in a thread."""

    def header(self) -> str:
        """The header's value, for one call.

        Raises:
            InvalidArgument: there is no token, or what is there is none.
        """
        token = self._give().strip()
        if not _FORM.fullmatch(token):
            raise InvalidArgument.field("token", "must be printable ASCII without spaces")
        return f"Bearer {token}"


def bearer_token(token: Token | None, url: str = "") -> BearerToken | None:
    """The token that was given; else `AFDP_TOKEN`, the file `AFDP_TOKEN_FILE`, or that of `afdp login` for this URL."""
    if token is not None:
        return BearerToken(token)
    if given := os.environ.get("AFDP_TOKEN"):
        return BearerToken(given)
    if file := os.environ.get("AFDP_TOKEN_FILE"):
        return BearerToken(Path(file))
    with suppress(InvalidArgument):  # who has no folder has not logged in
        if url and (login := LoginFile(url)).exists():
            return BearerToken(login)
    return None


async def authorization(token: BearerToken) -> str:
    """As `BearerToken.header`, for asyncio."""
    return await asyncio.to_thread(token.header) if token.may_wait else token.header()


def require_private(url: str) -> None:
    """Refuses to show a token where others could read it.

    Raises:
        InvalidArgument: the URL is plain http, and not of this machine.
    """
    try:
        check_private_url(url)
    except ValueError as error:
        raise InvalidArgument.field("token", f"must not be sent in the clear: the notary's URL {error}") from None


class _File:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._read: tuple[tuple[int, int, int], str] | None = None

    def __call__(self) -> str:
        try:
            found = self._file.stat()
            stamp = found.st_mtime_ns, found.st_size, found.st_ino
            if self._read is None or self._read[0] != stamp:
                self._read = stamp, self._file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidArgument.field("token", f"cannot be read from {self._file}: {why}") from None
        return self._read[1]


def _constant(token: str | Callable[[], str]) -> Callable[[], str]:
    return (lambda: token) if isinstance(token, str) else token
