"""Load on what holds the key, past the signer: as many signatures at a time, by the barest client there is."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from bench.child import leave_result

Sign = Callable[[list[bytes]], int]


def files() -> Sign:
    """`cryptography`, in process."""
    key, prehashed = generate_private_key(SECP256R1()), ECDSA(Prehashed(SHA256()))
    return lambda digests: len([key.sign(digest, prehashed) for digest in digests])


def openbao(addr: str, credentials: str) -> Sign:
    """The HTTP API, on one connection that is kept."""
    target = urlsplit(addr)
    assert target.hostname
    connection = http.client.HTTPConnection(target.hostname, target.port)

    def post(path: str, body: object, token: str = "") -> Any:
        headers = {"X-Vault-Token": token, "Content-Type": "application/json"}
        connection.request("POST", f"/v1/{path}", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == http.client.OK, answer
        return json.loads(answer)

    names = {"role_id": "role-id", "secret_id": "secret-id"}
    login = {name: Path(credentials, file).read_text() for name, file in names.items()}
    token = post("auth/approle/login", login)["auth"]["client_token"]

    def sign(digests: list[bytes]) -> int:
        batch = [{"input": b64encode(digest).decode()} for digest in digests]
        how = {"prehashed": True, "hash_algorithm": "sha2-256", "marshaling_algorithm": "asn1"}
        results = post("afdp-transit/sign/afdp-notary-key", {"batch_input": batch, **how}, token)["data"][
            "batch_results"
        ]
        return len([result["signature"] for result in results])

    return sign


def softhsm2(module: str, label: str, pin: str, **environment: str) -> Sign:
    """python-pkcs11, on one session."""
    os.environ.update(environment)
    import pkcs11
    from pkcs11 import Attribute, Mechanism, ObjectClass

    session = pkcs11.lib(module).get_token(token_label=label).open(user_pin=pin)
    wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: "afdp-hsm-key"}
    (key,) = session.get_objects(wanted)
    return lambda digests: len([key.sign(digest, mechanism=Mechanism.ECDSA) for digest in digests])


def main(file: str, engine: str, options: str, batch: str, seconds: str) -> None:
    """Signs batch after batch until the time is over."""
    sign = {"files": files, "openbao": openbao, "softhsm2": softhsm2}[engine](**json.loads(options))
    digests = [os.urandom(32) for _ in range(int(batch))]
    assert sign(digests) == len(digests)
    latencies = []
    began = time.perf_counter()
    until = began + float(seconds)
    while (sent := time.perf_counter()) < until:
        sign(digests)
        latencies.append(time.perf_counter() - sent)
    leave_result(file, {"seconds": time.perf_counter() - began, "latencies": latencies})


if __name__ == "__main__":
    main(*sys.argv[1:])
