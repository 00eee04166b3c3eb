"""The trust root of an embedded stack, signed with offline keys in its data folder, as production never does it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from pathlib import Path

import httpx

from afdp.embedded.process import write_private
from afdp.embedded.stack import Stack

logger = logging.getLogger(__name__)

# Nobody comes to sign again.
_FOR_YEARS = ("--root-days", "3650", "--targets-days", "3650")


async def sign_trust_root(stack: Stack) -> None:
    """Begins the repository of a running stack's trust root where there is none yet, with keys in `DATA_DIR/trust`."""
    if not await _is_missing(stack):
        return
    folder = stack.data_dir / "trust"
    if (folder / "signed").exists():  # and never published: somebody stopped us in between
        await _afdp(stack, "publish", folder)
        return
    passphrase = folder / "passphrase"
    if not passphrase.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        write_private(passphrase, secrets.token_urlsafe(32))
    await _afdp(stack, "init", folder, "--passphrase-file", passphrase, *_FOR_YEARS)


async def _is_missing(stack: Stack) -> bool:
    async with stack.http_client(stack.url) as client:
        try:
            return (await client.get("/trust/timestamp.json")).status_code == httpx.codes.NOT_FOUND
        except httpx.TransportError:
            return False


async def _afdp(stack: Stack, *arguments: str | Path) -> None:
    """Runs `afdp trust`, in a process of its own, for what it imports nothing else here needs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.cli", "--url", stack.url, "trust", *map(str, arguments)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **stack.client_settings},
    )
    try:
        _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        logger.warning("the trust root was not signed: %s", said.decode(errors="replace").strip())
