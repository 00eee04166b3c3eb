"""The peers as a command of the operator's speaks to them: as the service does."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from afdp.messages.metadata import MetadataServiceClient
from afdp.messages.signer import SignerServiceClient
from afdp.messages.transparency import TransparencyServiceClient
from afdp.notary.config import NotarySettings
from afdp.rpc import GrpcCaller, open_channel
from afdp.tls.files import open_tls


@dataclass(frozen=True, slots=True)
class Peers:
    """Clients of the three."""

    signer: SignerServiceClient
    log: TransparencyServiceClient
    records: MetadataServiceClient


async def open_peers(settings: NotarySettings, stack: AsyncExitStack) -> Peers:
    """Connections that `stack` closes."""
    tls = await stack.enter_async_context(open_tls(settings))

    async def caller(service: str, address: str) -> GrpcCaller:
        spread, most = service != "signer", settings.max_message_bytes
        channel = open_channel(address, most, spread=spread, tls=tls, service=service)
        return GrpcCaller(await stack.enter_async_context(channel))

    return Peers(
        SignerServiceClient(await caller("signer", settings.signer_address)),
        TransparencyServiceClient(await caller("transparency", settings.transparency_address)),
        MetadataServiceClient(await caller("metadata", settings.metadata_address)),
    )
