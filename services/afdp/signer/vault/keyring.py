"""Keys in Vault's transit engine: one call per batch, whatever its size."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable
from afdp.signer.keys import ED25519, P256, P384, KeySpec, KeyVersion, Signature
from afdp.signer.part import Part
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import Vault
from afdp.signer.vault.report import report

_SIGNATURE = re.compile(r"vault:v([1-9][0-9]*):([A-Za-z0-9+/=]+)")
_TYPES = {P256: "ecdsa-p256", P384: "ecdsa-p384", ED25519: "ed25519"}
_HASHES = {P256: ("sha2-256", 32), P384: ("sha2-384", 48)}
_MAX_BATCH = 256  # OpenBao refuses requests with more than 1,000 JSON strings
# How far Vault's clock may be ahead of the one that stamps: a version must not seem newer than its first signatures.
_AHEAD = timedelta(minutes=5)
_PATIENCE, _PAUSE = 20, 0.1  # times, and seconds between them, to look for a version that is there


class VaultKeyring:
    """Keys in one transit engine."""

    kind = "vault"

    def __init__(self, vault: Vault, memory: KeyMemory, specs: Sequence[KeySpec]) -> None:
        self._vault = vault
        self._memory = memory
        self._specs = {spec.name: spec for spec in specs}
        self._versions: dict[str, dict[int, KeyVersion]] = {}
        self._checks = 0

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        """As `Keyring.sign`: one call for up to 256."""
        spec = self._specs[name]
        size = _HASHES[spec.algorithm][1] if spec.algorithm in _HASHES else None
        # OpenBao signs a digest of any length
        fit = [data for data in inputs if size is None or len(data) == size]
        results = iter(
            [
                result
                for start in range(0, len(fit), _MAX_BATCH)
                for result in await self._sign_batch(spec, fit[start : start + _MAX_BATCH], version)
            ]
        )
        return [
            await self._signature(spec, next(results))
            if size is None or len(data) == size
            else InvalidArgument.field("digest", f"must have {size} bytes")
            for data in inputs
        ]

    async def versions(self, name: str) -> Sequence[KeyVersion]:
        """As `Keyring.versions`. Always asks Vault: another replica may have rotated."""
        return [key for _, key in sorted((await self._read(self._specs[name])).items())]

    async def rotate(self, name: str) -> KeyVersion:
        """As `Keyring.rotate`, by the key admin: the signer's own token must not be able to."""
        mount, spec = self._vault.mount, self._specs[name]
        before = max(await self._read(spec))
        await self._vault.call_as_admin(lambda vault: vault.secrets.transit.rotate_key(name, mount_point=mount))
        found = await self._read_until(spec, before + 1)
        return found[max(found)]

    async def check(self) -> None:
        """Raises `Unavailable` while Vault is away, or a key is not there: all are read once, then one at a time."""
        specs = list(self._specs.values())
        turn = specs[self._checks % len(specs)]
        for spec in [spec for spec in specs if spec.name not in self._versions] or [turn]:
            await self._read(spec)
        self._checks += 1

    async def status(self) -> Sequence[Part]:
        """As `Keyring.status`: whether Vault is there, how long the token holds, what it may do, and the keys."""
        parts = await report(self._vault, list(self._specs))
        return parts if len(parts) == 1 else [*parts, await self._keys_part()]

    async def _sign_batch(
        self, spec: KeySpec, inputs: Sequence[bytes], version: KeyVersion | None
    ) -> list[dict[str, Any]]:
        batch = [{"input": base64.b64encode(data).decode()} for data in inputs]
        hashed = _HASHES.get(spec.algorithm)
        how: dict[str, Any] = (
            {"hash_algorithm": hashed[0], "prehashed": True, "marshaling_algorithm": "asn1"} if hashed else {}
        )
        if version is not None:
            how["key_version"] = version.number
        mount = self._vault.mount

        def sign(vault: Any) -> list[dict[str, Any]]:
            answer = vault.secrets.transit.sign_data(spec.name, batch_input=batch, mount_point=mount, **how)
            results: list[dict[str, Any]] = answer["data"]["batch_results"]
            if len(results) != len(batch):
                raise ValueError("not an answer to this batch")
            return results

        return await self._vault.call(sign)

    async def _signature(self, spec: KeySpec, result: dict[str, Any]) -> Signature | NotaryError:
        matched = _SIGNATURE.fullmatch(result.get("signature", ""))
        if matched is None:
            return FailedPrecondition(f"Vault did not sign this one with {spec.name}")
        number = int(matched[1])
        known = self._versions.get(spec.name, {})
        if number not in known:  # the first of all, or rotated since
            known = await self._read_until(spec, number)
        return Signature(base64.b64decode(matched[2]), known[number])

    async def _read_until(self, spec: KeySpec, number: int) -> dict[int, KeyVersion]:
        """Every version, with this one among them: a standby may hear of it a moment later."""
        for _ in range(_PATIENCE):
            if number in (found := await self._read(spec)):
                return found
            await asyncio.sleep(_PAUSE)
        raise Unavailable(f"Vault does not show {spec.name}:{number} yet", retry_after=1.0)

    async def _read(self, spec: KeySpec) -> dict[int, KeyVersion]:
        """Every version: those that Vault shows, and those that it showed once and archived since."""
        shown, oldest = await self._look(spec)
        found = self._versions[spec.name] = await self._memory.completed(spec, shown, oldest)
        return found

    async def _look(self, spec: KeySpec) -> tuple[dict[int, KeyVersion], int]:
        mount = self._vault.mount
        return await self._vault.call(
            lambda vault: _shown(spec, vault.secrets.transit.read_key(spec.name, mount_point=mount)["data"])
        )

    async def _keys_part(self) -> Part:
        for spec in self._specs.values():
            try:
                await self._look(spec)
            except NotaryError as error:
                remedy = "run deploy/vault/setup.py, which makes the keys that are missing; restore one that is another"
                return Part("vault keys", False, f"{spec.name}: {error}", remedy)
        return Part("vault keys", True, f"all {len(self._specs)} are there, each of its type")


def _shown(spec: KeySpec, data: dict[str, Any]) -> tuple[dict[int, KeyVersion], int]:
    """The versions that are not archived, and the number of the first that was not trimmed."""
    kind = _TYPES[spec.algorithm]
    if data["type"] != kind:
        raise FailedPrecondition(f"Vault's key {spec.name} is of type {data['type']}, not {kind}")
    versions = {
        int(number): KeyVersion(
            key_id=f"{spec.name}:{number}",
            purpose=spec.purpose,
            algorithm=spec.algorithm,
            spki=_spki(spec.algorithm, entry["public_key"]),
            valid_from=datetime.fromisoformat(entry["creation_time"]).replace(microsecond=0) - _AHEAD,
            current=int(number) == data["latest_version"],
        )
        for number, entry in data["keys"].items()
    }
    return versions, max(1, data["min_available_version"])


def _spki(algorithm: str, public_key: str) -> bytes:
    if algorithm == ED25519:  # transit gives Ed25519 as raw base64
        key: Any = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
    else:
        key = load_pem_public_key(public_key.encode())
    spki: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki
