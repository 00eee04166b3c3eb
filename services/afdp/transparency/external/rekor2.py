"""A Rekor v2: entries go in by JSON, and come back with their proof once the next checkpoint covers them.

An entry that is there already is refused with nothing but its index: the proof is then made from the tiles. Requests
and answers are those of Sigstore's published models (`sigstore_models`).
"""

from __future__ import annotations

import re

from pydantic import ValidationError
from sigstore_models.common.v1 import PublicKeyDetails
from sigstore_models.rekor.v1 import TransparencyLogEntry
from sigstore_models.rekor.v2.entry import CreateEntryRequest
from sigstore_models.rekor.v2.hashedrekord import HashedRekordRequestV002
from sigstore_models.rekor.v2.verifier import PublicKey, Signature, Verifier

from afdp.errors import Unavailable
from afdp.formats.bundle import LogEntry
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import parse_entry_body
from afdp.formats.merkle import (
    HashRange,
    TileHashes,
    consistency_proof,
    inclusion_proof,
    merged_ranges,
    plan_consistency,
    plan_inclusion,
)
from afdp.formats.note import Checkpoint, Note, NoteError
from afdp.formats.tiles import WIDTH, TileError, decode_tile, tile_path, width_at
from afdp.transparency.external.http import Calls, Reply, refusal
from afdp.transparency.external.values import Answer, Shard, Submission, UnreadableAnswer

_INDEX = re.compile(rb"with index ([0-9]{1,18})\b")
_MOMENT = 1.0  # seconds


class Rekor2Client:
    """One shard."""

    def __init__(self, shard: Shard, calls: Calls) -> None:
        self._shard = shard
        self._calls = calls

    async def add(self, submission: Submission) -> Answer:
        """As `LogClient.add`."""
        reply = await self._calls.post(f"{self._shard.url}/api/v2/log/entries", _request(submission.body))
        if reply.status in (200, 201):
            return Answer(_entry(reply))
        if reply.status == 409 and (index := _INDEX.search(reply.body)):
            return Answer(await self._existing(int(index[1]), submission.body), read=True)
        raise refusal(reply)

    async def consistency(self, old: Checkpoint, new: Checkpoint) -> tuple[bytes, ...]:
        """As `LogClient.consistency`, from the tiles of the larger tree."""
        hashes = await self._hashes(plan_consistency(old.size, new.size), new.size)
        return consistency_proof(old.size, new.size, hashes)

    async def _existing(self, index: int, body: bytes) -> LogEntry:
        """An entry that is there already, with its proof for the newest checkpoint."""
        reply = await self._calls.get(f"{self._shard.read_url}/checkpoint")
        if reply.status != 200:
            raise Unavailable(f"the log's checkpoint is answered with {reply.status}", retry_after=_MOMENT)
        note, checkpoint = _checkpoint(reply)
        if checkpoint.size <= index:
            raise Unavailable("the entry is in the log, and no checkpoint covers it yet", retry_after=_MOMENT)
        hashes = await self._hashes(plan_inclusion(index, checkpoint.size), checkpoint.size)
        return LogEntry(
            log_index=index,
            log_id=self._shard.log.log_id,
            body=body,
            tree_size=checkpoint.size,
            root_hash=checkpoint.root,
            hashes=inclusion_proof(index, checkpoint.size, hashes),
            checkpoint=note,
        )

    async def _hashes(self, ranges: list[HashRange], size: int) -> TileHashes:
        wanted = {
            (each.level, tile)
            for each in merged_ranges([ranges])
            for tile in range(each.start // WIDTH, (each.end - 1) // WIDTH + 1)
        }
        return {
            (level, tile * WIDTH + place): value
            for level, tile in sorted(wanted)
            for place, value in enumerate(await self._tile(level, tile, width_at(level, tile, size)))
        }

    async def _tile(self, level: int, index: int, width: int) -> tuple[bytes, ...]:
        reply = await self._calls.get(f"{self._shard.read_url}/{tile_path(level, index, width)}")
        if reply.status == 404 and width < WIDTH:  # a partial tile may go once the full one is there
            reply = await self._calls.get(f"{self._shard.read_url}/{tile_path(level, index)}")
        if reply.status != 200:
            raise Unavailable(f"a tile of the log is answered with {reply.status}", retry_after=_MOMENT)
        try:
            return decode_tile(reply.body, len(reply.body) // 32)[:width]
        except TileError as error:
            raise UnreadableAnswer(f"a tile of the log cannot be read: {error}", retry_after=_MOMENT) from None


def _request(body: bytes) -> bytes:
    entry = parse_entry_body(body)
    key = PublicKey(raw_bytes=b64(entry.spki).encode())
    signature = Signature(
        content=b64(entry.signature).encode(),
        verifier=Verifier(public_key=key, key_details=PublicKeyDetails(entry.algorithm.value)),
    )
    request = HashedRekordRequestV002(digest=b64(entry.digest).encode(), signature=signature)
    return CreateEntryRequest(hashed_rekord_request_v002=request).to_json().encode()


def _entry(reply: Reply) -> LogEntry:
    try:
        said = TransparencyLogEntry.from_json(reply.body)
    except ValidationError:
        raise UnreadableAnswer("the log's answer is no TransparencyLogEntry", retry_after=_MOMENT) from None
    proof = said.inclusion_proof
    return LogEntry(
        log_index=said.log_index,
        log_id=said.log_id.key_id,
        body=said.canonicalized_body,
        tree_size=proof.tree_size,
        root_hash=proof.root_hash,
        hashes=tuple(proof.hashes),
        checkpoint=proof.checkpoint.envelope if proof.checkpoint else "",
        proof_index=proof.log_index,
        kind=said.kind_version.kind,
        version=said.kind_version.version,
        integrated_time=said.integrated_time or 0,
    )


def _checkpoint(reply: Reply) -> tuple[str, Checkpoint]:
    try:
        note = Note.parse(reply.body)
        return str(note), Checkpoint.parse(note.text)
    except NoteError as error:
        raise UnreadableAnswer(f"the log's checkpoint cannot be read: {error}", retry_after=_MOMENT) from None
