"""The settings' file in force: read at the start, followed while the process runs, its issuers' keys kept fresh."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from prometheus_client import Counter

from afdp.config import SettingsError
from afdp.notary.identity.authenticator import CredentialAuthenticator
from afdp.notary.identity.keys import KeySource, Pace, Provider
from afdp.notary.identity.provider import HttpProvider, KeyFile
from afdp.notary.identity.settings import IdentitySettings, IssuerSettings, parse_identity, read_identity
from afdp.notary.model import Principal
from afdp.rpc.caller import Caller

logger = logging.getLogger(__name__)

_reloads = Counter(
    "afdp_notary_identity_reloads", "Times that the changed file was read, by what came of it.", ["outcome"]
)

_LOOK_SECONDS = 1.0
_Stamp = tuple[int, int, int]


class Identity:
    """An `Authenticator` that is always as its file says. A file that cannot be used changes nothing, and is told of.

    Raises:
        SettingsError: the file cannot be used at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = _stamp(file)  # of the file that is in force
        self._wrong = ""  # what is the matter with the one that is there
        self._keys: dict[tuple[str, str], KeySource] = {}  # by where they are
        self._tasks: dict[KeySource, asyncio.Task[None]] = {}
        self._listener: Callable[[str], None] = lambda _: None
        self._hash, settings = _read(file)
        self._authenticator = self._built(settings)

    async def authenticate(self, caller: Caller) -> Principal:
        """Whom the credentials of a call belong to; raises as `CredentialAuthenticator` does."""
        return await self._authenticator.authenticate(caller)

    def tell(self, listener: Callable[[str], None]) -> None:
        """Has a listener hear the SHA-256, in hex, of the file that is in force, now and whenever another is."""
        self._listener = listener
        listener(self._hash)

    @property
    def sources(self) -> Sequence[KeySource]:
        """The keys of each issuer."""
        return tuple(self._keys.values())

    async def run(self) -> None:
        """Fetches keys, and follows the file, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._start_and_stop(tasks)
                await asyncio.sleep(_LOOK_SECONDS)
                stamp = await asyncio.to_thread(_stamp, self._file)
                if stamp == self._stamp:
                    self._wrong = ""
                elif await self._reload():
                    self._stamp = stamp

    async def _reload(self) -> bool:
        """Whether the file could be used. Else it is read again, for it may be so without having changed."""
        try:
            digest, settings = await asyncio.to_thread(_read, self._file)
        except SettingsError as error:
            if str(error) != self._wrong:
                self._wrong = str(error)
                _reloads.labels("refused").inc()
                fields = {"error": self._wrong}
                logger.error("the identity settings are wrong; those before stay", extra={"fields": fields})
            return False
        self._wrong = ""
        self._authenticator = self._built(settings)
        self._hash = digest
        self._listener(digest)
        _reloads.labels("taken").inc()
        logger.info("the identity settings were read anew")
        return True

    def _built(self, settings: IdentitySettings) -> CredentialAuthenticator:
        """Issuers whose keys are where they were keep those that are known."""
        self._keys = {
            place: self._keys.get(place) or _source(each)
            for each in settings.issuers
            for place in [(each.issuer, each.keys.model_dump_json())]
        }
        return CredentialAuthenticator(settings, {issuer: source for (issuer, _), source in self._keys.items()})

    def _start_and_stop(self, tasks: asyncio.TaskGroup) -> None:
        wanted = set(self._keys.values())
        for source in wanted - self._tasks.keys():
            self._tasks[source] = tasks.create_task(source.run(), name=f"keys of {source.name}")
        for source in self._tasks.keys() - wanted:
            self._tasks.pop(source).cancel()


def _read(file: Path) -> tuple[str, IdentitySettings]:
    """The SHA-256 of a file, in hex, and its settings. Raises SettingsError."""
    data = read_identity(file)
    return sha256(data).hexdigest(), parse_identity(data, str(file))


def _source(issuer: IssuerSettings) -> KeySource:
    keys = issuer.keys
    provider: Provider
    if keys.file is not None:
        provider = KeyFile(keys.file)
    else:
        discovery = keys.discovery or f"{issuer.issuer.rstrip('/')}/.well-known/openid-configuration"
        provider = HttpProvider(issuer.issuer, discovery, keys.url or "", keys.ca_file, keys.token_file)
    return KeySource(issuer.issuer, provider, Pace(keys.refresh_seconds, keys.lifetime_seconds, keys.refetch_seconds))


def _stamp(file: Path) -> _Stamp | None:
    with suppress(OSError):
        found = file.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
