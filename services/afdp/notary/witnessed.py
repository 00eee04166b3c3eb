"""Hears from the log which trees are cosigned, so that who watches is told of receipts that have become WITNESSED."""

from __future__ import annotations

import asyncio
import logging

from afdp.errors import NotaryError, NotFound
from afdp.messages.metadata import MetadataServiceClient, NoteWitnessedRequest
from afdp.messages.transparency import GetCosignedCheckpointRequest, TransparencyServiceClient
from afdp.notary.keys import KeyDirectory

logger = logging.getLogger(__name__)

_WAIT = 20.0  # seconds; then it is asked again
_TIMEOUT = 10.0
_RETRY = 2.0
_LOOK = 5.0  # seconds between two looks at which logs there are


class WitnessedTrees:
    """Notes each cosigned tree of each log that has witnesses. Several notaries may do so at once."""

    def __init__(
        self, transparency: TransparencyServiceClient, metadata: MetadataServiceClient, keys: KeyDirectory
    ) -> None:
        self._transparency = transparency
        self._metadata = metadata
        self._keys = keys

    async def run(self) -> None:
        """Until cancelled."""
        followed: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    for log in await self._keys.logs.logs():
                        if log.witness_quorum and log.origin not in followed:
                            followed.add(log.origin)
                            tasks.create_task(self._follow(log.origin))
                except NotaryError as error:
                    logger.debug("the logs are not known", extra={"fields": {"code": error.code}})
                await asyncio.sleep(_LOOK)

    async def _follow(self, origin: str) -> None:
        size: int | None = None
        while True:
            try:
                size = await self._note(origin, 0) if size is None else await self._next(origin, size)
            except NotaryError as error:
                logger.info("what is witnessed was not noted", extra={"fields": {"code": error.code}})
                await asyncio.sleep(_RETRY)

    async def _next(self, origin: str, size: int) -> int:
        """The size of the next cosigned tree, noted; the same one where none came for a while."""
        request = GetCosignedCheckpointRequest(size, round(_WAIT * 1000), origin)
        try:
            found = await self._transparency.get_cosigned_checkpoint(request, timeout=_WAIT + _TIMEOUT)
        except NotFound:
            return size
        return await self._note(origin, found.checkpoint.size) if found.checkpoint is not None else size

    async def _note(self, origin: str, size: int) -> int:
        return (await self._metadata.note_witnessed(NoteWitnessedRequest(origin, size), timeout=_TIMEOUT)).tree_size
