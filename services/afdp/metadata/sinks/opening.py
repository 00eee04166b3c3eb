"""Sinks and their forwarders, as the settings name them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from afdp.config import SettingsError
from afdp.errors import FailedPrecondition
from afdp.metadata.sinks.file import FileSink
from afdp.metadata.sinks.forwarding import Forwarder
from afdp.metadata.sinks.http import HttpSink
from afdp.metadata.sinks.ledger import Ledger
from afdp.metadata.sinks.settings import FileSettings, HttpSettings, SinkSettings, read_sinks
from afdp.metadata.sinks.sink import Sink
from afdp.metadata.sinks.syslog import SyslogSink
from afdp.metadata.sinks.watch import SinkWatch


def sink_of(settings: SinkSettings) -> Sink:
    """The sink that is meant."""
    if isinstance(settings, FileSettings):
        return FileSink(settings)
    return HttpSink(settings) if isinstance(settings, HttpSettings) else SyslogSink(settings)


@asynccontextmanager
async def forwarding(file: Path | None, ledger: Ledger) -> AsyncIterator[SinkWatch]:
    """The sinks of a file get what is theirs for the length of a block; gives what says how they are. None: no sinks.

    Raises:
        FailedPrecondition: the file is not right; names each fault and where it is.
    """
    try:
        sinks: Sequence[SinkSettings] = read_sinks(file).sinks if file is not None else ()
    except SettingsError as error:
        raise FailedPrecondition(str(error)) from None
    watch = SinkWatch([each.name for each in sinks], ledger)
    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(Forwarder(each, sink_of(each), ledger).run()) for each in sinks]
        if sinks:
            beside.append(tasks.create_task(watch.run()))
        try:
            yield watch
        finally:
            for task in beside:
                task.cancel()
