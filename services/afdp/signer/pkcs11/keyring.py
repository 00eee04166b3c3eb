"""Keys in a hardware security module, through PKCS #11. SoftHSM2 speaks the same.

How a version stands in the token is in `key_pairs.py`, how the token is reached in `sessions.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from pkcs11 import TokenFlag, exceptions

from afdp.errors import FailedPrecondition, InvalidArgument, NotaryError, Unavailable
from afdp.signer.keys import ED25519, P256, P384, KeySpec, KeyVersion, Signature
from afdp.signer.part import Part
from afdp.signer.pkcs11.pairs import KeyPair, find_pairs, loose_keys, make_pair, sign_all
from afdp.signer.pkcs11.sessions import SessionPool, TokenSession

_DIGESTS = {P256: 32, P384: 48, ED25519: None}  # bytes
_READ_AGAIN = 30.0  # seconds; far less than the grace that a version has after the next began (`keys.GRACE`)
_ATTEMPTS = 5
_SHARE = 8  # the fewest signatures for which another session is worth it


class Pkcs11Keyring:
    """Keys in one token."""

    kind = "hsm"

    def __init__(self, pool: SessionPool, specs: Sequence[KeySpec]) -> None:
        self._pool = pool
        self._specs = {spec.name: spec for spec in specs}
        self._known: dict[str, tuple[float, KeyPair]] = {}  # when it was looked for, and what signs
        self._named: dict[str, KeyPair] = {}
        self._made: set[bytes] = set()  # the IDs of pairs that this process made
        self._lock = asyncio.Lock()

    async def require(self) -> None:
        """Looks whether the keys are there, at the start. A token that is away may come later.

        Raises:
            FailedPrecondition: the token is there, and a key is not, or is of another kind.
        """
        with suppress(Unavailable):
            await self.check()

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        """As `Keyring.sign`: shared out among the sessions."""
        spec = self._specs[name]
        size = _DIGESTS[spec.algorithm]
        answers: list[Signature | NotaryError] = [
            InvalidArgument.field("digest", f"must have {size} bytes") for _ in inputs
        ]
        good = [index for index, data in enumerate(inputs) if size is None or len(data) == size]
        pair = await (self._signing(spec) if version is None else self._pair_of(spec, version))
        signed_by = replace(pair.version, current=version is None)
        for index, value in zip(good, await self._signed(spec, pair, [inputs[index] for index in good]), strict=True):
            answers[index] = Signature(value, signed_by)
        return answers

    async def versions(self, name: str) -> Sequence[KeyVersion]:
        """As `Keyring.versions`. Always asks the token: another replica may have rotated."""
        pairs = await self._pairs(self._specs[name])
        current = self._chosen(pairs)
        return [replace(pair.version, current=pair is current) for pair in pairs]

    async def rotate(self, name: str) -> KeyVersion:
        """As `Keyring.rotate`."""
        return await self._make(self._specs[name])

    async def create(self, name: str) -> KeyVersion | None:
        """Makes the first version of a key; none where the token has one already.

        Raises:
            FailedPrecondition: what the token has of this name is of another kind.
            Unavailable: the token is away.
        """
        spec = self._specs[name]
        if await self._pool.run(lambda session: find_pairs(session, spec)):
            return None
        return await self._make(spec)

    async def check(self) -> None:
        """Raises `Unavailable` while nothing can be signed."""
        for spec in self._specs.values():
            await self._pairs(spec)

    async def status(self) -> Sequence[Part]:
        """As `Keyring.status`: which token it is, and that no key can leave it."""
        specs = list(self._specs.values())

        def ask(session: TokenSession) -> tuple[str, TokenFlag, list[str]]:
            token = session.raw.token.slot.get_token()  # as it is now
            said = f"token {token.label} ({token.manufacturer_id} {token.model}, serial {token.serial.decode()})"
            return said, token.flags, loose_keys(session, specs)

        try:
            said, flags, loose = await self._pool.run(ask)
        except NotaryError as error:
            remedy = "see that the token is in and its client software runs; AFDP_PKCS11_… say which token and PIN"
            return [Part(self.kind, False, str(error), remedy)]
        said = f"{said}, {self._pool.size} sessions"
        if loose:
            remedy = "rotate these keys, so that a version is made in the token, and revoke the ones before"
            return [Part(self.kind, False, f"{said}, and {', '.join(loose)} can leave it", remedy)]
        if flags & (TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY):
            return [Part(self.kind, True, f"{said}, and wrong PINs were tried on it", "find out who tried them")]
        return [Part(self.kind, True, f"{said}; no key can leave it")]

    async def _signing(self, spec: KeySpec) -> KeyPair:
        read_at, pair = self._known.get(spec.name, (0.0, None))
        if pair is None or asyncio.get_running_loop().time() - read_at > _READ_AGAIN:
            pair = self._chosen(await self._pairs(spec))
        return pair

    async def _pair_of(self, spec: KeySpec, version: KeyVersion) -> KeyPair:
        """A version that is named; what it is never changes, so it is looked for once."""
        if version.key_id not in self._named:
            self._named |= {pair.version.key_id: pair for pair in await self._pairs(spec)}
        if version.key_id not in self._named:
            raise FailedPrecondition(f"the token has no {version.key_id}")
        return self._named[version.key_id]

    async def _signed(self, spec: KeySpec, pair: KeyPair, inputs: Sequence[bytes]) -> list[bytes]:
        async def signed(share: Sequence[bytes]) -> list[bytes]:
            return await self._pool.run(lambda session: sign_all(session, spec, pair.id, share))

        shares = _shares(inputs, self._pool.size)
        if len(shares) < 2:
            return await signed(inputs) if inputs else []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(signed(share)) for share in shares]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [signature for task in tasks for signature in task.result()]

    async def _pairs(self, spec: KeySpec) -> list[KeyPair]:
        """Every version that the token has; at least one."""

        def find(session: TokenSession) -> list[KeyPair]:
            if pairs := find_pairs(session, spec):
                return pairs
            raise exceptions.NoSuchKey  # or the token is gone: the pool looks again

        try:
            pairs = await self._pool.run(find)
        except FailedPrecondition as error:
            if not isinstance(error.__cause__, exceptions.NoSuchKey):
                raise
            made_by = "`python -m afdp.signer create-keys` makes it"
            raise FailedPrecondition(f"the token has no key {spec.name}: {made_by}") from None
        self._known[spec.name] = asyncio.get_running_loop().time(), self._chosen(pairs)
        return pairs

    def _chosen(self, pairs: Sequence[KeyPair]) -> KeyPair:
        """The version that signs: the newest that nobody will withdraw."""
        usable = [pair for pair in pairs if pair.id in self._made or pair.settled]
        return usable[-1] if usable else pairs[0]

    async def _make(self, spec: KeySpec) -> KeyVersion:
        async with self._lock:
            for _ in range(_ATTEMPTS):
                await self._pool.run(lambda session: find_pairs(session, spec))  # finds out what is lost, if anything
                made = await self._pool.run(lambda session: make_pair(session, spec), again=False)
                if made is not None:
                    self._made.add(made.id)
                    self._known[spec.name] = asyncio.get_running_loop().time(), made
                    return replace(made.version, current=True)
                await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311 # so that two do not keep step
        raise Unavailable("another replica makes a version of this key at the same time", retry_after=1.0)


def _shares(inputs: Sequence[bytes], sessions: int) -> list[Sequence[bytes]]:
    count = max(1, min(sessions, len(inputs) // _SHARE))
    each = max(1, -(-len(inputs) // count))
    return [inputs[start : start + each] for start in range(0, len(inputs), each)]
