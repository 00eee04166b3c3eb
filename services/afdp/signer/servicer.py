"""Messages in, messages out. Whatever is decided is decided in `service.py`."""

from __future__ import annotations

from afdp.errors import InvalidArgument, NotaryError
from afdp.formats.note import Checkpoint, NoteError
from afdp.items import to_item
from afdp.messages import signer as pb
from afdp.signer.datakeys import DataKey, DataKeys, Scope, WrappedKey
from afdp.signer.keys import KeyVersion, Purpose
from afdp.signer.service import SignedStatement, Signer, Stamped, Statement
from afdp.signer.status import StatusReport
from afdp.signer.timestamps import Timestamps
from afdp.signer.trust import TrustSigner

_PURPOSES = {
    pb.KeyPurpose.EVIDENCE: Purpose.EVIDENCE,
    pb.KeyPurpose.LOG: Purpose.LOG,
    pb.KeyPurpose.TIMESTAMP: Purpose.TIMESTAMP,
    pb.KeyPurpose.TRUST: Purpose.TRUST,
}
_NUMBERS = {purpose: number for number, purpose in _PURPOSES.items()}


class SignerServicer(pb.SignerServiceBase):
    """afdp.signer.v1.SignerService."""

    def __init__(
        self,
        signer: Signer,
        timestamps: Timestamps,
        trust: TrustSigner,
        data_keys: DataKeys,
        status: StatusReport,
    ) -> None:
        self._signer = signer
        self._timestamps = timestamps
        self._trust = trust
        self._data_keys = data_keys
        self._status = status

    async def sign_statements(self, request: pb.SignStatementsRequest) -> pb.SignStatementsResponse:
        statements = [Statement(each.tenant, each.payload) for each in request.statements]
        answers = await self._signer.sign_statements(statements)
        return pb.SignStatementsResponse(results=[_result(answer) for answer in answers])

    async def sign_checkpoint(self, request: pb.SignCheckpointRequest) -> pb.SignCheckpointResponse:
        checkpoint = _checkpoint(request.origin, request.size, request.root)
        signed = await self._signer.sign_checkpoint(checkpoint, request.consistency_proof, request.last_size)
        return pb.SignCheckpointResponse(signed.signature.value, signed.signature.key.key_id, signed.public_key)

    async def get_last_checkpoint(self, request: pb.GetLastCheckpointRequest) -> pb.GetLastCheckpointResponse:
        last = self._signer.last_checkpoint(request.origin)
        return pb.GetLastCheckpointResponse(size=last.size, root=last.root)

    async def get_public_keys(self, request: pb.GetPublicKeysRequest) -> pb.GetPublicKeysResponse:
        versions = await self._signer.versions(_purpose(request.purpose))
        return pb.GetPublicKeysResponse(keys=[_public_key(key) for key in versions])

    async def rotate_key(self, request: pb.RotateKeyRequest) -> pb.RotateKeyResponse:
        fresh = await self._signer.rotate(_purpose(request.purpose), request.name)
        return pb.RotateKeyResponse(key=_public_key(fresh))

    async def revoke_key(self, request: pb.RevokeKeyRequest) -> pb.RevokeKeyResponse:
        revoked = await self._signer.revoke(request.key_id, request.compromised_since, request.reason)
        return pb.RevokeKeyResponse(key=_public_key(revoked))

    async def timestamp(self, request: pb.TimestampRequest) -> pb.TimestampResponse:
        return pb.TimestampResponse(response=await self._timestamps.respond(request.query))

    async def timestamp_checkpoint(self, request: pb.TimestampCheckpointRequest) -> pb.TimestampCheckpointResponse:
        checkpoint = _checkpoint(request.origin, request.size, request.root)
        stamp = await self._timestamps.stamp_checkpoint(checkpoint, self._signer)
        return pb.TimestampCheckpointResponse(stamp.response, stamp.url, stamp.time)

    async def timestamp_signature(self, request: pb.TimestampSignatureRequest) -> pb.TimestampSignatureResponse:
        signed = SignedStatement(request.statement, request.signature, request.key_id)
        stamp = await self._timestamps.stamp_signature(signed, self._signer)
        return pb.TimestampSignatureResponse(stamp.response, stamp.url, stamp.time)

    async def get_timestamp_authorities(
        self, request: pb.GetTimestampAuthoritiesRequest
    ) -> pb.GetTimestampAuthoritiesResponse:
        return pb.GetTimestampAuthoritiesResponse(
            [
                pb.TimestampAuthority(each.url, list(each.certificates), each.valid_from, each.valid_until)
                for each in await self._timestamps.authorities()
            ]
        )

    async def sign_trust_metadata(self, request: pb.SignTrustMetadataRequest) -> pb.SignTrustMetadataResponse:
        signed = await self._trust.sign(request.signed)
        return pb.SignTrustMetadataResponse(signed.signature.value, signed.signature.key.key_id, signed.public_key)

    async def generate_data_keys(self, request: pb.GenerateDataKeysRequest) -> pb.GenerateDataKeysResponse:
        answers = await self._data_keys.generate([_scope(each) for each in request.scopes])
        return pb.GenerateDataKeysResponse([_data_key(answer) for answer in answers])

    async def unwrap_data_keys(self, request: pb.UnwrapDataKeysRequest) -> pb.UnwrapDataKeysResponse:
        answers = await self._data_keys.unwrap([_wrapped_key(each) for each in request.keys])
        return pb.UnwrapDataKeysResponse([_data_key(answer) for answer in answers])

    async def rewrap_data_keys(self, request: pb.RewrapDataKeysRequest) -> pb.RewrapDataKeysResponse:
        answers = await self._data_keys.rewrap([_wrapped_key(each) for each in request.keys])
        return pb.RewrapDataKeysResponse([_data_key(answer) for answer in answers])

    async def rotate_subject_key(self, request: pb.RotateSubjectKeyRequest) -> pb.RotateSubjectKeyResponse:
        return pb.RotateSubjectKeyResponse(await self._data_keys.rotate(_scope(request.scope)))

    async def destroy_subject_key(self, request: pb.DestroySubjectKeyRequest) -> pb.DestroySubjectKeyResponse:
        return pb.DestroySubjectKeyResponse(await self._data_keys.destroy(_scope(request.scope)))

    async def get_signer_status(self, request: pb.GetSignerStatusRequest) -> pb.GetSignerStatusResponse:
        parts = await self._status.parts()
        return pb.GetSignerStatusResponse(
            [pb.SignerPart(each.name, each.good, each.detail, each.remedy, each.public) for each in parts]
        )


def _result(answer: Stamped | NotaryError) -> pb.StatementResult:
    if isinstance(answer, NotaryError):
        return pb.StatementResult(error=to_item(answer))
    made = answer.signature
    return pb.StatementResult(signature=pb.Signature(made.value, made.key.key_id, answer.timestamp))


def _scope(scope: pb.DataKeyScope | None) -> Scope:
    return Scope(scope.tenant, scope.subject) if scope else Scope("", "")


def _wrapped_key(key: pb.WrappedDataKey) -> WrappedKey:
    return WrappedKey(_scope(key.scope), key.wrapped)


def _data_key(answer: DataKey | NotaryError) -> pb.DataKeyResult:
    if isinstance(answer, NotaryError):
        return pb.DataKeyResult(error=to_item(answer))
    return pb.DataKeyResult(key=pb.DataKey(answer.plain, answer.wrapped))


def _checkpoint(origin: str, size: int, root: bytes) -> Checkpoint:
    try:
        return Checkpoint(origin, size, root)
    except NoteError as error:
        raise InvalidArgument.field("root" if len(root) != 32 else "origin", str(error)) from None


def _purpose(number: pb.KeyPurpose) -> Purpose | None:
    if number == pb.KeyPurpose.UNSPECIFIED:
        return None
    if number not in _PURPOSES:
        raise InvalidArgument.field("purpose", "is not known")
    return _PURPOSES[number]


def _public_key(key: KeyVersion) -> pb.PublicKey:
    revoked = key.revoked
    return pb.PublicKey(
        key_id=key.key_id,
        purpose=_NUMBERS[key.purpose],
        algorithm=key.algorithm,
        spki=key.spki,
        valid_from=key.valid_from,
        valid_until=key.valid_until,
        tenants=list(key.tenants),
        revoked=pb.Revocation(revoked.at, revoked.compromised_since, revoked.reason) if revoked is not None else None,
        current=key.current,
        origins=list(key.origins),
    )
