"""Subjects' keys in Vault's transit engine: one per scope, made when it first encrypts.

Its name is `afdp-data-` and a hash of the scope, keyed with another of Vault's keys: whoever may read Vault's lists and
audit logs only learns nothing of a subject from them. Associated data would bind a wrapped key to its scope twice, but
Vault's rewrap takes none; the key of its own binds it.

A key that is destroyed is deleted, and one that can only sign takes its name. So Vault itself refuses to encrypt for a
barred subject, whichever replica asks, and remembers since when.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from hvac.exceptions import InternalServerError, InvalidPath, InvalidRequest

from afdp.errors import FailedPrecondition, NotaryError
from afdp.formats.encoding import b64, from_b64
from afdp.signer.datakeys import Scope, Sealed, destroyed, does_not_open, lost, never_was
from afdp.signer.part import Part
from afdp.signer.vault.opening import Vault

NAMES_KEY = "afdp-subject-names"
PREFIX = "afdp-data-"

_TYPE, _TOMBSTONE = "aes256-gcm96", "ed25519"
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]*):([A-Za-z0-9+/]{80})")  # nonce 12, data key 32, tag 16 bytes
_AT_ONCE = 4  # calls of Vault, so that signing finds it free
_REMEMBERED = 10_000  # names
_ATTEMPTS = 8

T = TypeVar("T")

_Item = dict[str, str]


class VaultSubjects:
    """As `SubjectKeys`, in one transit engine."""

    form = 2

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._names: dict[Scope, str] = {}
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def seal(self, keys: Sequence[tuple[Scope, bytes]]) -> Sequence[Sealed | NotaryError]:
        """As `SubjectKeys.seal`."""
        answers = await self._ask("encrypt", [(scope, {"plaintext": b64(plain)}) for scope, plain in keys])
        return [_sealed(answer) if isinstance(answer, dict) else answer for answer in answers]

    async def open(self, keys: Sequence[tuple[Scope, Sealed]]) -> Sequence[bytes | NotaryError]:
        """As `SubjectKeys.open`."""
        answers = await self._ask("decrypt", [(scope, _ciphertext(sealed)) for scope, sealed in keys])
        return [from_b64(answer["plaintext"]) if isinstance(answer, dict) else answer for answer in answers]

    async def reseal(self, keys: Sequence[tuple[Scope, Sealed]]) -> Sequence[Sealed | NotaryError]:
        """As `SubjectKeys.reseal`."""
        answers = await self._ask("rewrap", [(scope, _ciphertext(sealed)) for scope, sealed in keys])
        fresh = [_sealed(answer) if isinstance(answer, dict) else answer for answer in answers]
        return [
            old if isinstance(new, Sealed) and new.version == old.version else new
            for new, (_, old) in zip(fresh, keys, strict=True)
        ]

    async def rotate(self, scope: Scope) -> int:
        """As `SubjectKeys.rotate`, by the key admin."""
        name, mount = await self._name(scope), self._vault.mount

        def rotate(vault: Any) -> int:
            _require_key(_read(vault, mount, name))
            vault.secrets.transit.rotate_key(name, mount_point=mount)
            return int(_require_key(_read(vault, mount, name))["latest_version"])

        return await self._vault.call_as_admin(rotate)

    async def destroy(self, scope: Scope) -> datetime:
        """As `SubjectKeys.destroy`, by the key admin."""
        name, mount = await self._name(scope), self._vault.mount

        def destroy(vault: Any) -> datetime:
            key = _read(vault, mount, name)
            if key is None or key["type"] != _TOMBSTONE:
                if key is not None:
                    vault.secrets.transit.update_key_configuration(name, deletion_allowed=True, mount_point=mount)
                    vault.secrets.transit.delete_key(name, mount_point=mount)
                vault.secrets.transit.create_key(name, key_type=_TOMBSTONE, mount_point=mount)
                key = _read(vault, mount, name)
            if key is None or key["type"] != _TOMBSTONE:
                raise _Disturbed  # somebody encrypted in between, which makes a key anew
            return datetime.fromisoformat(key["keys"]["1"]["creation_time"]).replace(microsecond=0)

        return await self._vault.call_as_admin(lambda vault: _undisturbed(destroy, vault))

    async def status(self) -> Sequence[Part]:
        """As `SubjectKeys.status`: whether names can be made, without which no key is found."""
        try:
            await self._hashed([Scope("status", "*")])
        except NotaryError as error:
            return [Part("data keys", False, f"subjects' keys cannot be named: {error}", "run deploy/vault/setup.py")]
        return [Part("data keys", True, f"subjects' keys in {self._vault.mount}, named {PREFIX}…")]

    async def _ask(self, operation: str, items: Sequence[tuple[Scope, _Item]]) -> list[dict[str, Any] | NotaryError]:
        """Vault's answer to each item: one call for all of one scope, several scopes at once."""
        names = await self._named([scope for scope, _ in items])
        of_scope: dict[Scope, list[int]] = {}
        for index, (scope, _) in enumerate(items):
            of_scope.setdefault(scope, []).append(index)
        answers: dict[int, dict[str, Any] | NotaryError] = {}

        async def ask(name: str, indices: list[int]) -> None:
            async with self._free:
                told = await self._batch(operation, name, [items[index][1] for index in indices])
            answers.update(zip(indices, told, strict=True))

        try:
            async with asyncio.TaskGroup() as tasks:
                for scope, indices in of_scope.items():
                    tasks.create_task(ask(names[scope], indices))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [answers[index] for index in range(len(items))]

    async def _batch(self, operation: str, name: str, batch: list[_Item]) -> list[dict[str, Any] | NotaryError]:
        url = f"/v1/{self._vault.mount}/{operation}/{name}"
        body = {"batch_input": batch} | ({"type": _TYPE} if operation == "encrypt" else {})

        def post(vault: Any) -> list[dict[str, Any]]:
            try:
                answer = _undisturbed(lambda vault: vault.adapter.post(url=url, json=body), vault)
            except InvalidRequest as error:  # one item that is refused: the others' answers are with it
                answer = error.json or {}
            results = (answer.get("data") or {}).get("batch_results") or [{"error": "all"}] * len(batch)
            if len(results) != len(batch):
                raise ValueError("not an answer to this batch")
            return list(results)

        results = await self._vault.call(post)
        if not any(result.get("error") for result in results):
            return list(results)
        reason = await self._reason(operation, name)
        return [reason if result.get("error") else result for result in results]

    async def _reason(self, operation: str, name: str) -> NotaryError:
        """Why Vault refuses what was asked of a key."""
        mount = self._vault.mount
        key = await self._vault.call(lambda vault: _read(vault, mount, name))
        if key is None and operation != "encrypt":  # which would have made it
            return lost()
        try:
            _require_key(key)
        except NotaryError as error:
            return error
        return FailedPrecondition("Vault does not encrypt") if operation == "encrypt" else does_not_open()

    async def _name(self, scope: Scope) -> str:
        return (await self._named([scope]))[scope]

    async def _named(self, scopes: Sequence[Scope]) -> dict[Scope, str]:
        """The name of each scope's key; Vault is asked about those that are not remembered."""
        names = {scope: self._names.get(scope, "") for scope in scopes}
        if unknown := [scope for scope, name in names.items() if not name]:
            fresh = dict(zip(unknown, await self._hashed(unknown), strict=True))
            kept = self._names if len(self._names) + len(fresh) <= _REMEMBERED else {}
            self._names = kept | fresh
            names |= fresh
        return names

    async def _hashed(self, scopes: Sequence[Scope]) -> list[str]:
        url = f"/v1/{self._vault.mount}/hmac/{NAMES_KEY}/sha2-256"
        body = {"key_version": 1, "batch_input": [{"input": b64(scope.to_bytes())} for scope in scopes]}

        def post(vault: Any) -> list[str]:
            try:
                answer = vault.adapter.post(url=url, json=body)
            except InvalidRequest:
                raise FailedPrecondition(f"Vault has no key {NAMES_KEY}: run deploy/vault/setup.py") from None
            digests = [from_b64(result["hmac"].removeprefix("vault:v1:")) for result in answer["data"]["batch_results"]]
            if len(digests) != len(scopes):
                raise ValueError("not an answer to this batch")
            return [PREFIX + digest.hex() for digest in digests]

        return await self._vault.call(post)


class _Disturbed(InternalServerError):
    """Somebody else changed the same key at the same time. OpenBao's storage says it so, too: it refuses one of two."""


def _undisturbed(function: Callable[[Any], T], vault: Any) -> T:
    for _ in range(_ATTEMPTS):
        with suppress(InternalServerError):
            return function(vault)
    return function(vault)


def _read(vault: Any, mount: str, name: str) -> Mapping[str, Any] | None:
    try:
        key: Mapping[str, Any] = vault.secrets.transit.read_key(name, mount_point=mount)["data"]
    except InvalidPath:
        return None
    return key


def _require_key(key: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if key is None:
        raise never_was()
    if key["type"] == _TOMBSTONE:
        raise destroyed()
    if key["type"] != _TYPE:
        raise FailedPrecondition(f"the subject's key in Vault is of type {key['type']}, not {_TYPE}")
    return key


def _ciphertext(sealed: Sealed) -> _Item:
    return {"ciphertext": f"vault:v{sealed.version}:{b64(sealed.body)}"}


def _sealed(answer: dict[str, Any]) -> Sealed | NotaryError:
    matched = _CIPHERTEXT.fullmatch(answer["ciphertext"])
    if matched is None:
        return FailedPrecondition(f"the subject's key in Vault is of another type than {_TYPE}")
    return Sealed(int(matched[1]), from_b64(matched[2]))
