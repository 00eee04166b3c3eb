"""A key-encrypting key inside a token, through PKCS #11.

What stays in the token is a secret for HMAC-SHA-256. Each sealing draws a salt, has the token derive a key of 256 bits
from it (the KDF in counter mode of NIST SP 800-108r1, 4.1, with one block), and seals with that by AES-256-GCM here,
since modules differ in AES-GCM: some take the caller's nonce, some insist on their own. All of them have HMAC.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, exceptions

from afdp.errors import DataLoss, FailedPrecondition
from afdp.signer.kek import seal, unseal
from afdp.signer.pkcs11.sessions import SessionPool, TokenSession

T = TypeVar("T")

_SALT_BYTES = 32
_PURPOSE = b"afdp subject keys"


class TokenKek:
    """As `Kek`, in one token. It is made on the event loop, and used in other threads."""

    form = 3

    def __init__(self, pool: SessionPool, label: str) -> None:
        self.home = f"the token's key {label}"
        self._pool = pool
        self._label = label
        self._loop = asyncio.get_running_loop()

    async def create(self) -> bool:
        """Makes the secret in the token, unless it has it; gives whether it was made.

        Raises:
            Unavailable: the token is away.
            FailedPrecondition: it cannot make one.
        """
        if await self._pool.run(self._found):
            return False
        await self._pool.run(self._generate, again=False)
        return True

    def require(self) -> None:
        """As `Kek.require`."""
        self._run(self._secret)

    def make(self) -> None:
        """As `Kek.make`: the command `create-keys` makes it, and nothing else, so that a lost one is never replaced.

        Raises:
            FailedPrecondition: the token has none.
        """
        self.require()

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """As `Kek.seal`: the salt before what is sealed."""
        salt = os.urandom(_SALT_BYTES)
        return salt + seal(self._derived(salt), plain, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """As `Kek.open`."""
        try:
            return unseal(self._derived(sealed[:_SALT_BYTES]), sealed[_SALT_BYTES:], about)
        except InvalidTag:
            raise DataLoss("a sealed key does not open: restore it, or the token that sealed it") from None

    def _derived(self, salt: bytes) -> AESGCM:
        fixed = b"\0\0\0\1" + _PURPOSE + b"\0" + salt + (256).to_bytes(4, "big")

        def derive(session: TokenSession) -> bytes:
            derived: bytes = self._secret(session).sign(fixed, mechanism=Mechanism.SHA256_HMAC)
            return derived

        return AESGCM(self._run(derive))

    def _run(self, function: Callable[[TokenSession], T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(self._pool.run(function), self._loop).result()
        except FailedPrecondition as error:
            if not isinstance(error.__cause__, exceptions.NoSuchKey):
                raise
            made_by = "`python -m afdp.signer create-keys` makes it, where it never was"
            raise FailedPrecondition(f"the token has no key {self._label}: {made_by}") from None

    def _secret(self, session: TokenSession) -> Any:
        if self._label not in session.objects:
            found = self._found(session)
            if not found:
                raise exceptions.NoSuchKey  # or the token is gone: the pool looks again
            if len(found) > 1:
                raise FailedPrecondition(f"the token has {len(found)} keys {self._label}: which one sealed?")
            session.objects[self._label] = found[0]
        return session.objects[self._label]

    def _found(self, session: TokenSession) -> list[Any]:
        return list(session.raw.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self._label}))

    def _generate(self, session: TokenSession) -> None:
        session.raw.generate_key(
            KeyType.GENERIC_SECRET,
            256,
            label=self._label,
            store=True,
            capabilities=MechanismFlag.SIGN,
            mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True},
        )
