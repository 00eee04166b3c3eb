"""Keys in Vault's transit engine, through hvac. The same works with OpenBao.

hvac blocks, so each call runs in a thread: one call per batch, whatever its size.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from requests.adapters import HTTPAdapter

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable
from afdp.signer.keys import ED25519, P256, P384, KeySpec, KeyVersion, Signature
from afdp.signer.part import Part

logger = logging.getLogger(__name__)

_SIGNATURE = re.compile(r"vault:v([1-9][0-9]*):([A-Za-z0-9+/=]+)")
_TYPES = {P256: "ecdsa-p256", P384: "ecdsa-p384", ED25519: "ed25519"}
_HASHES = {P256: ("sha2-256", 32), P384: ("sha2-384", 48)}
_MAX_BATCH = 256  # OpenBao refuses requests with more than 1,000 JSON strings
_AWAY = 2.0  # seconds after which to try again
_SEALED = 5.0


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """Where Vault is and how to be let in."""

    addr: str
    token: Callable[[], str]  # read again when the one before is refused
    admin_token: Callable[[], str] | None = None  # may rotate keys
    namespace: str | None = None
    ca_file: Path | None = None
    mount: str = "afdp-transit"
    timeout: float = 5.0  # seconds


class VaultKeyring:
    """Keys in one transit engine."""

    kind = "vault"

    def __init__(self, access: VaultAccess, specs: Sequence[KeySpec]) -> None:
        self._access = access
        self._specs = {spec.name: spec for spec in specs}
        self._client = _client(access, access.token())
        self._transit: Any = self._client.secrets.transit  # hvac's methods have no types
        self._versions: dict[str, dict[int, KeyVersion]] = {}

    async def sign(self, name: str, inputs: Sequence[bytes]) -> Sequence[Signature | NotaryError]:
        """As `Keyring.sign`: one call for up to 256."""
        spec = self._specs[name]
        hashed = _HASHES.get(spec.algorithm)
        answers: list[Signature | NotaryError] = [
            InvalidArgument.field("digest", f"must have {hashed[1] if hashed else 0} bytes") for _ in inputs
        ]
        # OpenBao signs a digest of any length
        good = [index for index, data in enumerate(inputs) if hashed is None or len(data) == hashed[1]]
        batch = [{"input": base64.b64encode(inputs[index]).decode()} for index in good]
        results = [
            result
            for start in range(0, len(batch), _MAX_BATCH)
            for result in await self._call(self._sign_batch, spec, batch[start : start + _MAX_BATCH])
        ]
        for index, result in zip(good, results, strict=True):
            answers[index] = await self._signature(spec, result)
        return answers

    async def versions(self, name: str) -> Sequence[KeyVersion]:
        """As `Keyring.versions`. Always asks Vault: another replica may have rotated."""
        found = self._versions[name] = await self._read_versions(self._specs[name])
        return [key for _, key in sorted(found.items())]

    async def rotate(self, name: str) -> KeyVersion:
        """As `Keyring.rotate`, with a token of its own: the signing token must not be able to."""
        if self._access.admin_token is None:
            raise FailedPrecondition("rotation needs AFDP_VAULT_ADMIN_TOKEN_FILE, a token that may rotate the key")
        client = _client(self._access, self._access.admin_token())
        transit: Any = client.secrets.transit

        def rotate() -> None:
            transit.rotate_key(name, mount_point=self._access.mount)

        try:
            await self._call(rotate)
        finally:
            client.adapter.close()
        return (await self.versions(name))[-1]

    async def check(self) -> None:
        """Raises `Unavailable` while Vault is away, sealed or does not let us in."""
        for spec in self._specs.values():
            await self._read_versions(spec)

    async def status(self) -> Sequence[Part]:
        """As `Keyring.status`."""
        try:
            await self.check()
        except NotaryError as error:
            remedy = "unseal it, or give the signer a token that may sign: docs/deployment.md"
            return [Part(self.kind, False, f"{self._access.addr}: {error}", remedy)]
        return [Part(self.kind, True, f"{self._access.addr} lets the signer in")]

    async def close(self) -> None:
        """Closes the connections."""
        self._client.adapter.close()

    def _sign_batch(self, spec: KeySpec, batch: list[dict[str, str]]) -> list[dict[str, Any]]:
        hashed = _HASHES.get(spec.algorithm)
        how = {"hash_algorithm": hashed[0], "prehashed": True, "marshaling_algorithm": "asn1"} if hashed else {}
        answer = self._transit.sign_data(spec.name, batch_input=batch, mount_point=self._access.mount, **how)
        results: list[dict[str, Any]] = answer["data"]["batch_results"]
        return results

    async def _signature(self, spec: KeySpec, result: dict[str, Any]) -> Signature | NotaryError:
        matched = _SIGNATURE.fullmatch(result.get("signature", ""))
        if matched is None:
            return FailedPrecondition("Vault refused to sign this one")
        number = int(matched[1])
        known = self._versions.get(spec.name, {})
        if number not in known:  # the first of all, or rotated since
            known = self._versions[spec.name] = await self._read_versions(spec)
        if number not in known:
            return FailedPrecondition("Vault signed with a key version that it does not show")
        return Signature(base64.b64decode(matched[2]), known[number])

    async def _read_versions(self, spec: KeySpec) -> dict[int, KeyVersion]:
        def read() -> dict[str, Any]:
            answer: dict[str, Any] = self._transit.read_key(spec.name, mount_point=self._access.mount)
            return answer

        data = (await self._call(read))["data"]
        kind = _TYPES[spec.algorithm]
        if data["type"] != kind:
            raise FailedPrecondition(f"Vault's key {spec.name} is of type {data['type']}, not {kind}")
        return {
            int(number): KeyVersion(
                key_id=f"{spec.name}:{number}",
                purpose=spec.purpose,
                algorithm=spec.algorithm,
                spki=_spki(spec.algorithm, entry["public_key"]),
                valid_from=datetime.fromisoformat(entry["creation_time"]).replace(microsecond=0),
                current=int(number) == data["latest_version"],
            )
            for number, entry in data["keys"].items()
        }

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a blocking call in a thread and turns its errors into ours; once more if the token has changed."""
        try:
            return await asyncio.to_thread(function, *arguments)
        except hvac.exceptions.Forbidden as error:
            fresh = self._access.token()
            if fresh == self._client.token:
                raise _translated(error) from error
            self._client.token = fresh
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            raise _translated(error) from error
        try:
            return await asyncio.to_thread(function, *arguments)
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            raise _translated(error) from error


def _client(access: VaultAccess, token: str) -> hvac.Client:
    session = requests.Session()
    session.trust_env = False  # no proxy of the environment between us and the keys
    session.mount(access.addr, HTTPAdapter(pool_connections=4, pool_maxsize=32))
    timeout: Any = access.timeout  # requests takes fractions of a second, hvac's types do not
    return hvac.Client(
        url=access.addr,
        token=token,
        namespace=access.namespace,
        verify=str(access.ca_file) if access.ca_file else True,
        timeout=timeout,
        session=session,
    )


def _translated(error: Exception) -> NotaryError:
    # Vault's own texts may quote paths and policies: the log has the kind, callers get a sentence.
    logger.warning("Vault refused or failed", extra={"fields": {"kind": type(error).__name__}})
    if isinstance(error, hvac.exceptions.VaultDown):
        return Unavailable("Vault is sealed or standby", retry_after=_SEALED)
    if isinstance(error, hvac.exceptions.Forbidden):
        return Unavailable("Vault does not let the signer in: its token or policy is wrong", retry_after=_SEALED)
    if isinstance(error, hvac.exceptions.InvalidPath):
        return FailedPrecondition("Vault has no such key or mount")
    if isinstance(error, hvac.exceptions.InvalidRequest):
        return FailedPrecondition("Vault refused the request: is the key of the right type?")
    if isinstance(error, requests.Timeout):
        return Unavailable("Vault did not answer in time", retry_after=_AWAY)
    return Unavailable("Vault cannot be reached", retry_after=_AWAY)


def _spki(algorithm: str, public_key: str) -> bytes:
    if algorithm == ED25519:  # transit gives Ed25519 as raw base64
        key: Any = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
    else:
        key = load_pem_public_key(public_key.encode())
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki
