"""The signer service, through gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from afdp.errors import Internal, NotFound, Unavailable
from afdp.formats.note import Checkpoint, NoteError
from afdp.messages.signer import (
    GetLastCheckpointRequest,
    GetPublicKeysRequest,
    KeyPurpose,
    SignCheckpointRequest,
    SignerServiceClient,
    TimestampCheckpointRequest,
)
from afdp.transparency.values import SignedCheckpoint, Stamp


class GrpcSigner:
    """What signs this log's checkpoints. `timeout` is in seconds, for each call."""

    def __init__(self, client: SignerServiceClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def sign(self, checkpoint: Checkpoint, last_size: int, proof: Sequence[bytes]) -> bytes:
        """The Ed25519 signature over a checkpoint, 64 bytes, verified by nobody yet."""
        request = SignCheckpointRequest(
            origin=checkpoint.origin,
            size=checkpoint.size,
            root=checkpoint.root,
            consistency_proof=list(proof),
            last_size=last_size,
        )
        return (await self._client.sign_checkpoint(request, timeout=self._timeout)).signature

    async def last(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint signed for an origin."""
        try:
            answer = await self._client.get_last_checkpoint(GetLastCheckpointRequest(origin), timeout=self._timeout)
        except NotFound:
            return None
        try:
            return Checkpoint(origin, answer.size, answer.root)
        except NoteError as error:
            raise Internal(f"the signer's last checkpoint cannot be read: {error}") from None

    async def public_key(self, origin: str) -> bytes:
        """The raw Ed25519 key that signs an origin's checkpoints now, 32 bytes."""
        request = GetPublicKeysRequest(KeyPurpose.LOG)
        known = [
            key for key in (await self._client.get_public_keys(request, timeout=self._timeout)).keys if key.current
        ]
        # Its own, or the one of all others; a signer of the release before has one key, and says nothing of origins.
        keys = [key for key in known if origin in key.origins] or [
            key for key in known if not key.origins or "*" in key.origins
        ]
        if not keys:
            raise Unavailable("the signer has no log key yet", retry_after=1.0)
        try:
            key = load_der_public_key(keys[-1].spki)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise Internal("the signer's log key cannot be read") from error
        if not isinstance(key, Ed25519PublicKey):
            raise Internal("the signer's log key is not an Ed25519 key")
        return key.public_bytes_raw()


class GrpcStampingAuthority:
    """The authority outside of the notary that the signer asks. `timeout` is in seconds, for each call."""

    def __init__(self, client: SignerServiceClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def stamp(self, checkpoint: SignedCheckpoint, origin: str) -> Stamp:
        """The stamp over a checkpoint's note body; the signer has verified it."""
        request = TimestampCheckpointRequest(origin, checkpoint.size, checkpoint.root)
        answer = await self._client.timestamp_checkpoint(request, timeout=self._timeout)
        if not answer.response or answer.time is None:
            raise Internal("the signer gave an empty stamp")
        return Stamp(answer.response, answer.authority, answer.time)
