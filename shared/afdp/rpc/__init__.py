"""gRPC for every service: one way to serve, one way to call, one codec, one error on the wire.

A service hands its servicer to `serve`; a caller opens a channel and puts a generated client on it:

    async with open_channel("127.0.0.1:50052") as channel:
        signer = SignerServiceClient(GrpcCaller(channel))
        answer = await signer.get_public_keys(GetPublicKeysRequest(), timeout=1.0)
"""

from afdp.rpc.client import GrpcCaller, open_channel
from afdp.rpc.server import serve

__all__ = ["GrpcCaller", "open_channel", "serve"]
