"""A witness, over HTTP (C2SP tlog-witness)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from afdp.errors import FailedPrecondition, NotaryError, Unavailable
from afdp.formats.note import NoteError, NoteSignature, VerifierKey
from afdp.formats.witness import (
    ADD_CHECKPOINT,
    MAX_ANSWER_BYTES,
    SIZE_MEDIA_TYPE,
    AddCheckpoint,
    parse_cosignatures,
    parse_size,
)
from afdp.transparency.config import WitnessSettings
from afdp.transparency.witnessing import OtherSize, Witness

# What a refusal means, in our words: those of the witness stay out of our logs.
_REFUSALS = {
    400: "it finds the request malformed",
    403: "it knows no key that has signed the checkpoint",
    404: "it does not know this log",
    409: "it has cosigned another tree of this size",
    422: "it finds no proof that the tree goes on from the one that it has cosigned",
}


class HttpWitness:
    """One witness. How long it may take is its caller's business."""

    def __init__(self, client: httpx.AsyncClient, url: str, vkey: VerifierKey) -> None:
        self._client = client
        self._url = f"{url.rstrip('/')}/{ADD_CHECKPOINT}"
        self.vkey = vkey

    async def cosign(self, request: AddCheckpoint) -> tuple[NoteSignature, ...]:
        """As `Witness.cosign`."""
        try:
            async with self._client.stream("POST", self._url, content=request.to_bytes()) as response:
                body = await _bounded(response)
        except httpx.HTTPError as error:
            raise Unavailable(f"it does not answer: {type(error).__name__}") from None
        try:
            if response.status_code == 200:
                return parse_cosignatures(body)
            if response.status_code == 409 and _media_type(response) == SIZE_MEDIA_TYPE:
                raise OtherSize(parse_size(body))
        except NoteError as error:
            raise FailedPrecondition(f"its answer cannot be read: {error}") from None
        raise _refusal(response.status_code)


@asynccontextmanager
async def open_witnesses(known: Sequence[WitnessSettings]) -> AsyncIterator[list[Witness]]:
    """The witnesses of the settings, with one pool of connections."""
    async with httpx.AsyncClient(timeout=None, follow_redirects=False) as client:  # noqa: S113 - witnessing bounds it
        yield [HttpWitness(client, str(each.url), each.key) for each in known]


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise FailedPrecondition(f"its answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip()


def _refusal(status: int) -> NotaryError:
    if status in _REFUSALS:
        return FailedPrecondition(_REFUSALS[status])
    return Unavailable(f"it answers {status}")
