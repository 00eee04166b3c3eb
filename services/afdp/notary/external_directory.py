"""Other people's logs, as the log service lists them: remembered, so that reading goes on while it is away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from afdp.errors import NotaryError, Unavailable, Unimplemented
from afdp.formats.note import Note, NoteError
from afdp.formats.trust import Log
from afdp.messages.transparency import ExternalLog, ListExternalLogsRequest, TransparencyServiceClient

FRESH = 5.0  # seconds for which the list is believed without asking again
_TIMEOUT = 3.0
_TREE = re.compile(r" - [0-9]+$")


class ExternalDirectory:
    """The logs of others that entries go to, or ever went to."""

    def __init__(self, transparency: TransparencyServiceClient) -> None:
        self._transparency = transparency
        self._logs: Sequence[ExternalLog] | None = None
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def logs(self) -> Sequence[ExternalLog]:
        """Every one, at most `FRESH` seconds old, or as last seen.

        Raises:
            Unavailable: they were never seen.
        """
        if self._logs is None or asyncio.get_running_loop().time() - self._asked > FRESH:
            try:
                await self._refresh()
            except NotaryError:
                if self._logs is None:
                    raise
        if self._logs is None:  # nobody knows whether there are any: that is not the same as none
            raise Unavailable("the log service has not said yet which logs of others there are", retry_after=FRESH)
        return self._logs

    async def find(self, origin: str, note: str) -> ExternalLog | None:
        """The log of a checkpoint: of several keys under one name that which signed it, else the newest.

        Args:
            origin: of the checkpoint; that of a Rekor v1 has the number of a tree at its end.
            note: the checkpoint, as it was signed.
        """
        name = _TREE.sub("", origin)
        if found := _signer_of(note, [each for each in self._logs or () if each.origin == name]):
            return found
        named = [each for each in await self.logs() if each.origin == name]
        return _signer_of(note, named) or next(iter(named), None)

    async def current(self, name: str) -> ExternalLog:
        """The shard that entries for a log go to now.

        Raises:
            Unavailable: the log service does not say.
        """
        logs = await self.logs()
        for each in (*(log for log in logs if log.current), *logs):
            if each.name == name:
                return each
        raise Unavailable(f"the log service knows no log named {name}: see AFDP_EXTERNAL_LOGS", retry_after=FRESH)

    async def takes_envelopes(self, name: str) -> bool:
        """Whether a log gets whole envelopes: a Rekor v1 does."""
        return (await self.current(name)).api_version == 1

    async def _refresh(self) -> None:
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() - self._asked <= FRESH:  # somebody else has asked meanwhile
                return
            self._asked = loop.time()  # also where it fails: who is away is not asked with every batch
            try:
                request = ListExternalLogsRequest()
                self._logs = (await self._transparency.list_external_logs(request, timeout=_TIMEOUT)).logs
            except Unimplemented:  # a log service of the release before, while a deployment is under way
                self._logs = ()


def trusted_log(log: ExternalLog) -> Log:
    """A log of others, as a trust root has it."""
    return Log.of(log.origin, log.spki, valid_from(log))


def _signer_of(note: str, logs: Sequence[ExternalLog]) -> ExternalLog | None:
    if not logs:
        return None
    try:
        signed = Note.parse(note)
    except NoteError:  # said where it is verified
        return logs[0]
    return next((each for each in logs if signed.names_signer(trusted_log(each).vkey)), None)


def valid_from(log: ExternalLog) -> datetime:
    """Since when a log is known to be valid."""
    return log.valid_from or datetime.now(UTC)
