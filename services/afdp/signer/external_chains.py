"""Under which chains authorities have stamped, in one JSON file: their stamps need them for ever.

Those outside stand there by their URLs, the embedded one with chains that an organisation gives by its key versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import orjson

from afdp.errors import DataLoss, Unavailable
from afdp.formats.certificates import Chain, read_chain
from afdp.formats.encoding import b64, from_b64
from afdp.signer.disk import write_durably


class ExternalChains:
    """The list and its file."""

    def __init__(self, path: Path) -> None:
        """Reads what is there.

        Raises:
            DataLoss: the file is there and cannot be read.
        """
        self._path = path
        self._lock = asyncio.Lock()
        self._known = _read(path)

    def known(self) -> Sequence[tuple[str, Chain]]:
        """Each authority's URL and chain, in the order in which they were first seen."""
        return self._known

    async def keep(self, url: str, chain: Chain) -> None:
        """Keeps a chain; it survives a crash once this returns.

        Raises:
            Unavailable: the disk refuses; nothing was kept.
        """
        async with self._lock:
            if (url, _ders(chain)) in [(known, _ders(other)) for known, other in self._known]:
                return
            known = [*self._known, (url, chain)]
            entries = [{"url": url, "certificates": [b64(der) for der in _ders(chain)]} for url, chain in known]
            try:
                await asyncio.to_thread(write_durably, self._path, orjson.dumps(entries, option=orjson.OPT_INDENT_2))
            except OSError as error:
                raise Unavailable("the signer cannot write its memory of authorities", retry_after=5.0) from error
            self._known = known


def _ders(chain: Chain) -> list[bytes]:
    return [each.der for each in chain.certificates]


def _read(path: Path) -> list[tuple[str, Chain]]:
    if not path.exists():
        return []
    try:
        entries = orjson.loads(path.read_bytes())
        if not isinstance(entries, list):
            raise TypeError("not a list")
        return [(str(each["url"]), read_chain(tuple(map(from_b64, each["certificates"])))) for each in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"{path} is not a list of authorities; restore it, do not remove it") from error
