"""A service as a process: `python -m afdp.NAME` serves, `python -m afdp.NAME config` shows its settings."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import orjson
import uvloop

from afdp.config import ServiceSettings, complain_and_exit, load_or_exit, shown
from afdp.errors import NotaryError
from afdp.fips import FipsError, require_fips

S = TypeVar("S", bound=ServiceSettings)
Main = Callable[[S], Coroutine[Any, Any, int | None]]
Command = Callable[[S, Sequence[str]], Coroutine[Any, Any, int | None]]
"""A command that takes arguments of its own; what is wrong with them it says itself."""


def run(
    schema: type[S],
    serve: Main[S],
    commands: Mapping[str, Main[S]] | None = None,
    with_arguments: Mapping[str, Command[S]] | None = None,
) -> None:
    """Runs the process to its end and exits.

    Without an argument it serves; `config` prints the effective settings as JSON; further commands are the service's
    own. A main that returns an integer sets the exit status. SIGTERM and SIGINT cancel the main, so that whatever it
    opened is closed; a server replaces these handlers with a graceful drain of its own.
    """
    mains: dict[str, Main[S]] = {"": serve, "config": _show_config, **(commands or {})}
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    for each, command in (with_arguments or {}).items():
        mains[each] = partial(_with_arguments, command, arguments)
    if name not in mains or (arguments and name not in (with_arguments or {})):
        known = ", ".join(sorted(command for command in mains if command))
        print(f"usage: python -m afdp.SERVICE [{known}]", file=sys.stderr)
        raise SystemExit(2)
    settings = load_or_exit(schema)
    service = schema.__name__.removesuffix("Settings").lower()
    if settings.fips == "required" and name != "config":
        _require_fips_or_exit(service)
    if settings.unsaid and not name:
        complain_and_exit(settings.unsaid)
    try:
        status = uvloop.run(_until_signalled(mains[name](settings)))
    except (NotaryError, OSError) as error:  # it cannot start: say why, in a line
        print(f"{service}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(status or 0)


@asynccontextmanager
async def running(*parts: Awaitable[None]) -> AsyncIterator[None]:
    """Runs parts beside a server; they end after it, so that calls under way are finished first."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(_forever(part)) for part in parts]
        yield
        for task in started:
            task.cancel()


async def _with_arguments(command: Command[S], arguments: Sequence[str], settings: S) -> int | None:
    return await command(settings, arguments)


async def _forever(part: Awaitable[None]) -> None:
    await part


def _require_fips_or_exit(service: str) -> None:
    try:
        require_fips()
    except FipsError as error:
        print(f"{service}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def quieten_gc() -> None:
    """Keeps what a started process holds for good out of garbage collections, and makes those rarer.

    Requests leave few cycles; the default thresholds would walk all that batches hold dozens of times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _until_signalled(main: Coroutine[Any, Any, int | None]) -> int | None:
    # Explicitly, because a background job of a shell inherits SIGINT as ignored, and asyncio then installs nothing.
    quieten_gc()
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(main)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 0


async def _show_config(settings: ServiceSettings) -> None:
    sys.stdout.buffer.write(orjson.dumps(shown(settings), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
