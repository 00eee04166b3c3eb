"""The Python client of the notary: blocking or for asyncio, over REST or over gRPC, the same methods and values.

    from afdp.client import Actor, Artifact, EvidencePackage, NotaryClient

    with NotaryClient("http://127.0.0.1:3030") as notary:
        signed = notary.sign(EvidencePackage("1.0.0", now, "ai.model.released", Actor("human", "alice"), artifacts))
        Path("receipt.json").write_bytes(signed.receipt.to_json())

`AsyncNotaryClient` has the same methods to await. `NotaryClient.over_grpc("127.0.0.1:50051")` speaks gRPC (extra
`rpc`). Errors are the tree in `afdp.client.errors`.
"""

from afdp.client.client import AsyncNotaryClient, NotaryClient
from afdp.client.retry import Retry
from afdp.client.tls import ClientTls
from afdp.client.values import Actor, Artifact, EvidencePackage, Receipt, Signed, SignedBatch

__all__ = [
    "Actor",
    "Artifact",
    "AsyncNotaryClient",
    "ClientTls",
    "EvidencePackage",
    "NotaryClient",
    "Receipt",
    "Retry",
    "Signed",
    "SignedBatch",
]
