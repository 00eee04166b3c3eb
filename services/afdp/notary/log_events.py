"""Logs that were opened or frozen are on record too: that is done in the log service's database, by its own commands.

Notaries see it within seconds, and whichever does puts it on record: the row has the same ID whoever writes it, and so
is on record once. Who gave the command is known to the machine that it was given on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol
from uuid import UUID

from afdp.audit.rows import write_row
from afdp.errors import NotaryError
from afdp.messages.transparency import Log, LogState

INTERVAL = 3.0  # seconds

OPENED, FROZEN = "OpenLog", "FreezeLog"


class Logs(Protocol):
    """The logs of the deployment (`logs.py`)."""

    async def logs(self) -> Sequence[Log]:
        """All of them."""


class LogEvents:
    """Watches the logs."""

    def __init__(self, logs: Logs, put: Callable[[bytes], object], tenant: str) -> None:
        """`put` takes rows; `tenant` is whose they are: that of the operators."""
        self._logs = logs
        self._put = put
        self._tenant = tenant
        self._told: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            with suppress(NotaryError):  # the next look finds it again
                self.look(await self._logs.logs())
            await asyncio.sleep(INTERVAL)

    def look(self, logs: Sequence[Log]) -> None:
        """Puts on record what is new."""
        for done, origin in _events(logs):
            if (done, origin) not in self._told:
                self._put(self._row(done, origin))
                self._told.add((done, origin))

    def _row(self, done: str, origin: str) -> bytes:
        members = {
            "time": datetime.now(UTC),
            "step": "act",
            "result": "allow",
            "rpc": done,
            "permission": "log.admin",
            "issuer": "afdp-transparency",
            "subject": "operator",
            "method": "service",
            "tenant": self._tenant,
            "resource": f"log:{origin}",
            "reason": "by a command of the log service; the time is when the notary saw it",
        }
        return write_row(members, row_id=UUID(bytes=sha256(f"{done} {origin}".encode()).digest()[:16]))


def _events(logs: Sequence[Log]) -> Iterator[tuple[str, str]]:
    for log in logs:
        yield OPENED, log.origin
        if log.state == LogState.FROZEN:
            yield FROZEN, log.origin
