"""Messages in, messages out. Whatever is decided is decided in `service.py`."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.errors import FieldViolation, InvalidArgument, NotaryError, NotFound
from afdp.formats.bundle import LogEntry
from afdp.formats.hashedrekord import parse_entry_body
from afdp.items import to_item
from afdp.messages import transparency as pb
from afdp.transparency.external.service import ExternalLogs
from afdp.transparency.external.values import KnownShard, Submission
from afdp.transparency.logs import Logs
from afdp.transparency.service import Witnesses
from afdp.transparency.values import FrozenLog, Inclusion, KnownLog, LogIdentity, LogState, SignedCheckpoint

_LONGEST_WAIT = 60_000  # milliseconds
_MOST_ENTRIES = 256  # of at most 64 KiB each, so that they fit in a message


class TransparencyServicer(pb.TransparencyServiceBase):
    """afdp.transparency.v1.TransparencyService."""

    def __init__(self, logs: Logs, external: ExternalLogs | None = None) -> None:
        self._logs = logs
        self._external = external

    async def append(self, request: pb.AppendRequest) -> pb.AppendResponse:
        log = await self._logs.of(request.origin)
        checkpoint, answers = await log.append(request.entries, request.made_after_size)
        answer = pb.AppendResponse(checkpoint=_checkpoint(checkpoint), results=[_result(each) for each in answers])
        if any(isinstance(each, FrozenLog) for each in answers):
            answer.frozen, answer.successor = True, await self._logs.successor(request.origin)
        return answer

    async def find_leaves(self, request: pb.FindLeavesRequest) -> pb.FindLeavesResponse:
        log = await self._logs.of(request.origin)
        checkpoint, found = await log.find(request.leaf_hashes)
        results = [pb.FindLeavesResult(inclusion=_inclusion(each) if each else None) for each in found]
        return pb.FindLeavesResponse(checkpoint=_checkpoint(checkpoint), results=results)

    async def get_inclusion_proof(self, request: pb.GetInclusionProofRequest) -> pb.GetInclusionProofResponse:
        log = await self._logs.of(request.origin)
        inclusion, size, root = await log.inclusion(request.leaf_index, request.tree_size)
        return pb.GetInclusionProofResponse(inclusion=_inclusion(inclusion), tree_size=size, root=root)

    async def get_consistency_proof(self, request: pb.GetConsistencyProofRequest) -> pb.GetConsistencyProofResponse:
        log = await self._logs.of(request.origin)
        proof, size = await log.consistency(request.old_size, request.new_size)
        return pb.GetConsistencyProofResponse(proof=list(proof), new_size=size)

    async def get_checkpoint(self, request: pb.GetCheckpointRequest) -> pb.GetCheckpointResponse:
        log = await self._logs.of(request.origin)
        return pb.GetCheckpointResponse(checkpoint=_checkpoint(await log.checkpoint()))

    async def get_stamped_checkpoint(self, request: pb.GetStampedCheckpointRequest) -> pb.GetStampedCheckpointResponse:
        log = await self._logs.of(request.origin)
        found, inclusion = await log.stamped(request.leaf_index)
        return pb.GetStampedCheckpointResponse(
            checkpoint=_checkpoint(found.checkpoint),
            inclusion=_inclusion(inclusion),
            timestamp=found.stamp.response,
            authority=found.stamp.authority,
            time=found.stamp.time,
        )

    async def get_cosigned_checkpoint(
        self, request: pb.GetCosignedCheckpointRequest
    ) -> pb.GetCosignedCheckpointResponse:
        if request.wait_milliseconds > _LONGEST_WAIT:
            raise InvalidArgument.field("wait_milliseconds", f"must be at most {_LONGEST_WAIT}")
        log = await self._logs.of(request.origin)
        found, inclusion = await log.cosigned(request.leaf_index, request.wait_milliseconds / 1000)
        return pb.GetCosignedCheckpointResponse(checkpoint=_checkpoint(found), inclusion=_inclusion(inclusion))

    async def get_log(self, request: pb.GetLogRequest) -> pb.GetLogResponse:
        log = await self._logs.of(request.origin)
        identity = log.identity()
        vkeys, quorum = _cosigners(log.witnesses)
        return pb.GetLogResponse(
            origin=identity.origin,
            base_url=log.base_url,
            vkey=str(identity.vkey),
            log_id=identity.log_id,
            spki=_spki(identity),
            witnesses=vkeys,
            witness_quorum=quorum,
        )

    async def list_logs(self, request: pb.ListLogsRequest) -> pb.ListLogsResponse:
        vkeys, quorum = _cosigners(self._logs.first.witnesses)
        return pb.ListLogsResponse(
            [_log(each, self._logs.base_url(each), vkeys, quorum) for each in await self._logs.listed()]
        )

    async def list_entries(self, request: pb.ListEntriesRequest) -> pb.ListEntriesResponse:
        if request.start < 0:
            raise InvalidArgument.field("start", "must not be negative")
        if not 1 <= request.limit <= _MOST_ENTRIES:
            raise InvalidArgument.field("limit", f"must be 1 to {_MOST_ENTRIES}")
        log = await self._logs.of(request.origin)
        leaves, size = await log.entries(request.start, request.limit)
        return pb.ListEntriesResponse(entries=[leaf.entry for leaf in leaves], tree_size=size)

    async def log_externally(self, request: pb.LogExternallyRequest) -> pb.LogExternallyResponse:
        _require_entry(request)
        if self._external is None:
            raise NotFound("entries go to no log of others here")
        entry = await self._external.log(request.log, Submission(request.body, request.statement))
        return pb.LogExternallyResponse(_external_entry(entry))

    async def list_external_logs(self, request: pb.ListExternalLogsRequest) -> pb.ListExternalLogsResponse:
        listed = await self._external.listed() if self._external else []
        return pb.ListExternalLogsResponse([_external_log(known, current) for known, current in listed])


_STATES = {
    LogState.OPEN: pb.LogState.OPEN,
    LogState.STANDBY: pb.LogState.STANDBY,
    LogState.FROZEN: pb.LogState.FROZEN,
}


def _log(known: KnownLog, base_url: str, witnesses: list[str], quorum: int) -> pb.Log:
    return pb.Log(
        origin=known.origin,
        base_url=base_url,
        vkey=str(known.identity.vkey),
        log_id=known.identity.log_id,
        spki=_spki(known.identity),
        witnesses=witnesses,
        witness_quorum=quorum,
        tenants=list(known.tenants),
        state=_STATES[known.state],
        predecessor=known.predecessor,
        successor=known.successor,
        opened_at=known.opened_at,
        frozen_at=known.frozen_at,
    )


def _cosigners(witnesses: Witnesses | None) -> tuple[list[str], int]:
    return ([str(each) for each in witnesses.vkeys], witnesses.policy.quorum) if witnesses else ([], 0)


def _spki(identity: LogIdentity) -> bytes:
    key = Ed25519PublicKey.from_public_bytes(identity.public_key)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _checkpoint(checkpoint: SignedCheckpoint | None) -> pb.Checkpoint | None:
    if checkpoint is None:
        return None
    return pb.Checkpoint(note=checkpoint.note, size=checkpoint.size, root=checkpoint.root)


def _result(answer: Inclusion | NotaryError) -> pb.AppendResult:
    if isinstance(answer, NotaryError):
        return pb.AppendResult(error=to_item(answer))
    return pb.AppendResult(inclusion=_inclusion(answer), existing=answer.existed)


def _inclusion(inclusion: Inclusion) -> pb.Inclusion:
    return pb.Inclusion(leaf_index=inclusion.leaf_index, leaf_hash=inclusion.leaf_hash, proof=b"".join(inclusion.proof))


def _require_entry(request: pb.LogExternallyRequest) -> None:
    try:
        parse_entry_body(request.body)
    except InvalidArgument as error:
        fields = [FieldViolation(f"body.{each.field}", each.message) for each in error.fields]
        raise InvalidArgument(error.message, fields=fields) from None


def _external_entry(entry: LogEntry) -> pb.ExternalEntry:
    return pb.ExternalEntry(
        log_id=entry.log_id,
        origin=entry.checkpoint.partition("\n")[0],
        body=entry.body,
        log_index=entry.log_index,
        tree_index=entry.place,
        tree_size=entry.tree_size,
        proof=b"".join(entry.hashes),
        checkpoint=entry.checkpoint,
        integrated_time=entry.integrated_time,
        promise=entry.promise,
    )


def _external_log(known: KnownShard, current: bool) -> pb.ExternalLog:
    shard = known.shard
    return pb.ExternalLog(
        name=shard.name,
        api_version=shard.api_version,
        origin=shard.log.origin,
        base_url=shard.url,
        log_id=shard.log.log_id,
        spki=shard.log.spki,
        valid_from=shard.log.valid_from,
        current=current,
        refused=known.refused,
        refused_at=known.refused_at,
    )
