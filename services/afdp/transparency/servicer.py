"""Messages in, messages out. Whatever is decided is decided in `service.py`."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.errors import InvalidArgument, NotaryError
from afdp.items import to_item
from afdp.messages import transparency as pb
from afdp.transparency.service import TransparencyLog
from afdp.transparency.values import Inclusion, SignedCheckpoint

_LONGEST_WAIT = 60_000  # milliseconds


class TransparencyServicer(pb.TransparencyServiceBase):
    """afdp.transparency.v1.TransparencyService."""

    def __init__(self, log: TransparencyLog) -> None:
        self._log = log

    async def append(self, request: pb.AppendRequest) -> pb.AppendResponse:
        checkpoint, answers = await self._log.append(request.entries)
        return pb.AppendResponse(checkpoint=_checkpoint(checkpoint), results=[_result(each) for each in answers])

    async def find_leaves(self, request: pb.FindLeavesRequest) -> pb.FindLeavesResponse:
        checkpoint, found = await self._log.find(request.leaf_hashes)
        results = [pb.FindLeavesResult(inclusion=_inclusion(each) if each else None) for each in found]
        return pb.FindLeavesResponse(checkpoint=_checkpoint(checkpoint), results=results)

    async def get_inclusion_proof(self, request: pb.GetInclusionProofRequest) -> pb.GetInclusionProofResponse:
        inclusion, size, root = await self._log.inclusion(request.leaf_index, request.tree_size)
        return pb.GetInclusionProofResponse(inclusion=_inclusion(inclusion), tree_size=size, root=root)

    async def get_consistency_proof(self, request: pb.GetConsistencyProofRequest) -> pb.GetConsistencyProofResponse:
        proof, size = await self._log.consistency(request.old_size, request.new_size)
        return pb.GetConsistencyProofResponse(proof=list(proof), new_size=size)

    async def get_checkpoint(self, request: pb.GetCheckpointRequest) -> pb.GetCheckpointResponse:
        return pb.GetCheckpointResponse(checkpoint=_checkpoint(await self._log.checkpoint()))

    async def get_stamped_checkpoint(self, request: pb.GetStampedCheckpointRequest) -> pb.GetStampedCheckpointResponse:
        found, inclusion = await self._log.stamped(request.leaf_index)
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
        found, inclusion = await self._log.cosigned(request.leaf_index, request.wait_milliseconds / 1000)
        return pb.GetCosignedCheckpointResponse(checkpoint=_checkpoint(found), inclusion=_inclusion(inclusion))

    async def get_log(self, request: pb.GetLogRequest) -> pb.GetLogResponse:
        identity = self._log.identity()
        key = Ed25519PublicKey.from_public_bytes(identity.public_key)
        witnesses = self._log.witnesses
        return pb.GetLogResponse(
            witnesses=[str(each) for each in witnesses.vkeys] if witnesses else [],
            witness_quorum=witnesses.policy.quorum if witnesses else 0,
            origin=identity.origin,
            base_url=self._log.base_url,
            vkey=str(identity.vkey),
            log_id=identity.log_id,
            spki=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )


def _checkpoint(checkpoint: SignedCheckpoint | None) -> pb.Checkpoint | None:
    if checkpoint is None:
        return None
    return pb.Checkpoint(note=checkpoint.note, size=checkpoint.size, root=checkpoint.root)


def _result(answer: Inclusion | NotaryError) -> pb.AppendResult:
    if isinstance(answer, NotaryError):
        return pb.AppendResult(error=to_item(answer))
    return pb.AppendResult(inclusion=_inclusion(answer))


def _inclusion(inclusion: Inclusion) -> pb.Inclusion:
    return pb.Inclusion(leaf_index=inclusion.leaf_index, leaf_hash=inclusion.leaf_hash, proof=b"".join(inclusion.proof))
