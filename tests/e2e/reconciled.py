"""The reconciler, run from a test's own process as `afdp reconcile` runs it, against a stack."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from afdp.embedded.stack import Stack
from afdp.errors import DeadlineExceeded, Unavailable
from afdp.notary.config import NotarySettings
from afdp.notary.reconcile_command import open_reconciler
from afdp.notary.reconciling import Progress


async def reconciled(stack: Stack, *, close: bool = False) -> Progress:
    """What `--grace 0` finds, once every service has come back; without `close` it is that of `--check`."""
    given = stack.settings("notary").items()
    settings = NotarySettings.model_validate({name.removeprefix("AFDP_").lower(): value for name, value in given})
    progress = Progress()
    async with AsyncExitStack() as parts:
        reconciler = await open_reconciler(settings, 0, parts)
        while True:
            try:
                await reconciler.run(progress, _go_on, close=close)
            except (Unavailable, DeadlineExceeded):
                await asyncio.sleep(0.05)
            else:
                return progress


async def _go_on(progress: Progress) -> None: ...
