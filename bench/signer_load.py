"""Load on the signer: one batch after the other, each verified when the time is over."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import grpc.aio
import orjson
import uvloop
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.protobuf.message_factory import GetMessageClass

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, pae
from afdp.messages.signer import GetPublicKeysRequest, GetTimestampAuthoritiesRequest, SignerServiceClient
from afdp.rpc import GrpcCaller
from afdp.rpc.descriptors import method
from afdp.verify.timestamps import verify_stamp
from bench.child import leave_result
from bench.packages import evidence

SIGN = "/afdp.signer.v1.SignerService/SignStatements"


async def _load(address: str, batch: int, seconds: float) -> dict[str, object]:
    payloads = [
        orjson.dumps({"_type": "https://in-toto.io/Statement/v1", "predicate": evidence()}) for _ in range(batch)
    ]
    wire = GetMessageClass(method(SIGN).request)
    statements = [{"tenant": "default", "payload": payload} for payload in payloads]
    request = wire(statements=statements).SerializeToString()
    latencies: list[float] = []
    answers: list[bytes] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(SIGN)
        await call(request, timeout=30)
        began = time.perf_counter()
        until = began + seconds
        while (sent := time.perf_counter()) < until:
            answers.append(await call(request, timeout=30))
            latencies.append(time.perf_counter() - sent)
        took = time.perf_counter() - began
        await _verify(SignerServiceClient(GrpcCaller(channel)), payloads, answers)
    return {"seconds": took, "latencies": latencies}


async def _verify(client: SignerServiceClient, payloads: list[bytes], answers: list[bytes]) -> None:
    """Every signature, and the first stamp of each answer where there is one; what does not verify raises."""
    listed = (await client.get_public_keys(GetPublicKeysRequest())).keys
    keys = {key.key_id: load_der_public_key(key.spki) for key in listed}
    found = (await client.get_timestamp_authorities(GetTimestampAuthoritiesRequest())).authorities
    began = datetime.now(UTC) - timedelta(days=1)
    authorities = [TimestampAuthority.of("https://bench.invalid", each.certificates, began) for each in found]
    digests = [sha256(pae(IN_TOTO_PAYLOAD_TYPE, payload)).digest() for payload in payloads]
    response = GetMessageClass(method(SIGN).response)
    for answer in answers:
        results = response.FromString(answer).results
        assert len(results) == len(digests)
        for digest, result in zip(digests, results, strict=True):
            key = keys[result.signature.key_id]
            assert isinstance(key, EllipticCurvePublicKey)
            key.verify(result.signature.value, digest, ECDSA(Prehashed(SHA256())))
            assert bool(result.signature.timestamp) == bool(authorities)
        if authorities:
            verify_stamp(results[0].signature.timestamp, results[0].signature.value, authorities)


if __name__ == "__main__":
    file, address, batch, seconds = sys.argv[1:]
    leave_result(file, uvloop.run(_load(address, int(batch), float(seconds))))
