"""What `afdp doctor` finds in the folder of `afdp dev`, whether it runs or not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from afdp.cli.checkup import Finding, of_services
from afdp.embedded.process import FolderLock
from afdp.embedded.stack import PORTS, Stack, StackOptions, require_free_ports
from afdp.errors import FailedPrecondition


def of_folder(folder: Path) -> list[Finding]:
    """What a start on the folder would find.

    What the stack starts itself, PostgreSQL and OpenBao, is not asked: it need not run.
    """
    runs = _runs(folder)
    findings = [*_state(folder, runs=runs), *_private(folder)]
    if not runs:
        findings += _ports()
    if not (folder / "openbao").exists():  # keys in OpenBao are there once it runs
        stack = Stack(StackOptions(folder))
        findings += [
            each
            for each in of_services(["signer"], {"signer": stack.settings("signer")})
            if each.name not in ("port", "settings")
        ]
    return findings


def _runs(folder: Path) -> bool:
    """Whether a stack holds the folder."""
    if not (folder / "lock").exists():
        return False
    try:
        FolderLock(folder).release()
    except FailedPrecondition:
        return True
    return False


def _state(folder: Path, *, runs: bool) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding("folder", "data", True, f"{folder} is not there yet; made at the first start")
        return
    yield Finding("folder", "data", True, f"{folder}, {'in use by a stack that runs' if runs else 'not in use'}")
    version = folder / "postgres" / "cluster" / "PG_VERSION"
    if version.exists():
        yield Finding("folder", "postgres", True, f"data of PostgreSQL {version.read_text().strip()}")
    elif (folder / "postgres").exists():
        remedy = "restore it from a backup; without it records and log are gone"
        yield Finding("folder", "postgres", False, f"{folder / 'postgres'} has no data of PostgreSQL", remedy)
    else:
        yield Finding("folder", "postgres", True, "not there yet; made at the first start")


def _private(folder: Path) -> Iterator[Finding]:
    """The services' folders are for their user only."""
    for service in PORTS:
        path = folder / service
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding("folder", service, False, f"{path} has mode {mode:o}", f"chmod 700 {path}")
        elif not os.access(path, os.W_OK):
            yield Finding("folder", service, False, f"{path} cannot be written", f"chown -R $(id -u) {path}")


def _ports() -> Iterator[Finding]:
    try:
        require_free_ports(0)
    except FailedPrecondition as error:
        remedy = "stop what listens there, or start with another --port-offset"
        yield Finding("folder", "ports", False, error.message, remedy)
    else:
        yield Finding("folder", "ports", True, "all are free")
