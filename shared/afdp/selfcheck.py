"""A service looks at what it would stand on: `python -m afdp.NAME check` says what it finds and changes nothing.

It prints one JSON document, `{"service": …, "findings": [{"name": …, "good": …, "detail": …, "remedy": …}]}`, and ends
with 0 where all is good, else with 1. `afdp doctor` reads it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from afdp.config import ServiceSettings
from afdp.errors import NotaryError
from afdp.rpc.probe import AWAY, FOREIGN, probe
from afdp.telemetry.logs import configure_logging
from afdp.tls.files import TlsFiles, open_tls

S = TypeVar("S", bound=ServiceSettings)

_ROOM = 1024**3  # bytes that should be free
_PATIENCE = 20.0  # seconds for one check


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is, in lower case.
        good: whether the service can live with it.
        detail: what it is like, in one sentence without a full stop; never a secret.
        remedy: what to do where it is not good; beside a good one, advice.
    """

    name: str
    good: bool
    detail: str
    remedy: str = ""


Look = Callable[[S], Awaitable[Sequence[Finding]]]


def self_check(schema: type[S], *looks: Look[S]) -> Callable[[S], Coroutine[Any, Any, int | None]]:
    """The main of the command `check` of the service with these settings: its looks, in order, each with a limit."""
    service = schema.__name__.removesuffix("Settings").lower()

    async def check(settings: S) -> int | None:
        configure_logging(service, "ERROR")
        findings = [_settings(settings)]
        for look in looks:
            findings += await _patiently(look, settings)
        document = {"service": service, "findings": [asdict(finding) for finding in findings]}
        sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return 0 if all(finding.good for finding in findings) else 1

    return check


def _settings(settings: ServiceSettings) -> Finding:
    if unsaid := settings.unsaid:
        what, how = (" and ".join(each.split(": ")[side] for each in unsaid) for side in (0, 1))
        return Finding("settings", False, what, how)
    return Finding("settings", True, "can be read, and each is known")


async def _patiently(look: Look[S], settings: S) -> Sequence[Finding]:
    name = look.__name__.replace("_", " ")
    try:
        async with asyncio.timeout(_PATIENCE):
            return await look(settings)
    except TimeoutError:
        return [Finding(name, False, f"gave no answer within {_PATIENCE:g} seconds")]
    except NotaryError as error:
        return [Finding(name, False, str(error))]


# --- what several services look at ------------------------------------------------------------------------------------


def grpc_port_of(service: str) -> Look[ServiceSettings]:
    """Whether the port is free, or this very service (`package.Service`) listens there already."""

    async def itself(address: str, settings: ServiceSettings) -> bool:
        async with open_tls(settings) as tls:
            return await probe(address, service, tls) not in (AWAY, FOREIGN)

    return port_of(itself)


def port_of(itself: Callable[[str, S], Awaitable[bool]]) -> Look[S]:
    """Whether the port is free; `itself` says whether what listens at `host:port` is this very service."""

    async def port(settings: S) -> Sequence[Finding]:
        address = f"{settings.host}:{settings.port}"
        error = _bind_error(settings.host, settings.port)
        if error is None:
            return [Finding("port", True, f"{address} is free")]
        if error == errno.EADDRINUSE:
            if await itself(address, settings):
                return [Finding("port", True, f"{address} is this service's, which runs")]
            remedy = "stop what listens there, or set AFDP_PORT to another"
            return [Finding("port", False, f"{address} is taken by something else", remedy)]
        remedy = "set AFDP_HOST to an address of this machine, and AFDP_PORT to one that its user may open"
        return [Finding("port", False, f"cannot listen on {address}: {os.strerror(error)}", remedy)]

    return port


def peers_of(*names: str) -> Look[ServiceSettings]:
    """Whether the peers that `AFDP_<NAME>_ADDRESS` name answer, and are what they should be."""

    async def peers(settings: ServiceSettings) -> Sequence[Finding]:
        async with open_tls(settings) as tls:
            asked = (_peer(name, getattr(settings, f"{name}_address"), tls) for name in names)
            return await asyncio.gather(*asked)

    return peers


async def _peer(name: str, address: str, tls: TlsFiles | None) -> Finding:
    service = f"afdp.{name}.v1.{name.capitalize()}Service"
    answer = await probe(address, service, tls)
    setting = f"AFDP_{name.upper()}_ADDRESS"
    if answer == AWAY:
        return Finding(name, False, f"nobody answers at {address}", f"start it, or set {setting} to where it is")
    if answer == FOREIGN:
        return Finding(name, False, f"what answers at {address} is no {name}", f"set {setting} to where it is")
    return Finding(name, True, f"answers at {address} and says {answer}")


def disk_finding(folder: Path) -> Finding:
    """Whether there is room where a folder is, or will be."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    usage = shutil.disk_usage(there)
    free = f"{usage.free / 1024**3:.1f} GiB of {usage.total / 1024**3:.1f} are free at {there}"
    if usage.free < _ROOM:
        return Finding("disk", False, free, f"make room: at least {_ROOM // 1024**3} GiB should be free")
    return Finding("disk", True, free)


def folder_finding(folder: Path) -> Finding:
    """Whether a service's own folder is there for it, and for nobody else."""
    try:
        status = folder.stat()
    except FileNotFoundError:
        return _new_folder(folder)
    except OSError as error:
        return Finding("data folder", False, f"{folder}: {error.strerror}", "let the service's user get there")
    if not stat.S_ISDIR(status.st_mode):
        return Finding("data folder", False, f"{folder} is not a folder", "set AFDP_DATA_DIR to one")
    if status.st_mode & stat.S_IRWXO:
        remedy = f"chmod o-rwx {folder}"
        return Finding("data folder", False, f"{folder} may be entered by everybody on this machine", remedy)
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = f"give it to the service's user: chown -R USER {folder}"
        return Finding("data folder", False, f"{folder} cannot be written by this user", remedy)
    return Finding("data folder", True, f"{folder}, mode {stat.S_IMODE(status.st_mode):o}")


def _new_folder(folder: Path) -> Finding:
    parent = next(each for each in folder.absolute().parents if each.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding("data folder", True, f"{folder} is not there yet; it is made at the first start")
    remedy = f"make {folder} and give it to the service's user"
    return Finding("data folder", False, f"{folder} is not there, and {parent} cannot be written by this user", remedy)


def _bind_error(host: str, port: int) -> int | None:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return None
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
