"""Load on Rekor v2's API. Every entry has a key, a digest and a signature of its own, made before the clock starts."""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

import orjson
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.encoding import b64
from bench.child import leave_result
from bench.http_load import put_under_load

PATH = "/api/v2/log/entries"

_ECDSA = ec.ECDSA(Prehashed(hashes.SHA256()))


def entry_request() -> bytes:
    """A hashedrekord 0.0.2 of a key that signs nothing else."""
    key, digest = ec.generate_private_key(ec.SECP256R1()), os.urandom(32)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    verifier = {"publicKey": {"rawBytes": b64(spki)}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    signature = {"content": b64(key.sign(digest, _ECDSA)), "verifier": verifier}
    return orjson.dumps({"hashedRekordRequestV002": {"digest": b64(digest), "signature": signature}})


async def _load(url: str, seconds: float, connections: int, most: int) -> dict[str, object]:
    host = urlsplit(url).netloc
    head = f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: "
    bodies = [entry_request() for _ in range(most)]
    requests = iter([f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies])
    load = await put_under_load(url, requests, 201, seconds, connections)
    answers = [body.decode() for body in load.bodies]
    return {"seconds": load.seconds, "latencies": load.latencies, "answers": answers}


if __name__ == "__main__":
    file, url, seconds, connections, most = sys.argv[1:]
    leave_result(file, uvloop.run(_load(url, float(seconds), int(connections), int(most))))
