"""The keys of one issuer: fetched in the background, kept until they are too old, fetched again when one is unknown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from prometheus_client import Counter, Gauge

from afdp.errors import NotaryError, Unavailable
from afdp.notary.access.refusal import CredentialRefused

logger = logging.getLogger(__name__)

Jwk = Mapping[str, Any]
PublicKey = RSAKey | ECKey | OKPKey

_KINDS: Mapping[str, type[PublicKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA", "Ed25519")}
ALGORITHMS = (*_RSA, *(name for names in _CURVES.values() for name in names))
"""What a token can be signed with, where its issuer's settings say so: nothing that has no public key."""

_LEAST_RSA_BITS = 2048
_MOST_RSA_BITS = 8192
_MOST_KEYS = 64
_RETRY_SECONDS = 2.0

_fetches = Counter("afdp_notary_identity_key_fetches", "Fetches of an issuer's keys.", ["issuer", "result"])
_fetched = Gauge("afdp_notary_identity_keys_timestamp_seconds", "When an issuer's keys were last got.", ["issuer"])


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key of an issuer.

    Attributes:
        key_id: its name there.
        algorithms: what it can verify.
        thumbprint: RFC 7638; tells two keys of the same name apart.
        key: the key.
    """

    key_id: str
    algorithms: frozenset[str]
    thumbprint: str
    key: PublicKey


class Provider(Protocol):
    """Where an issuer publishes its keys."""

    async def fetch(self) -> Sequence[Jwk]:
        """All that it publishes now, as a JWK set (RFC 7517) has them.

        Raises:
            Unavailable: nothing that can be used was got. It is for the operator.
        """


@dataclass(frozen=True, slots=True)
class Pace:
    """How long keys count, in seconds.

    Attributes:
        refresh: after which they are fetched again while all is well.
        lifetime: after which they do not count any more, if they could not be.
        refetch: between two fetches that unknown keys caused.
        wait: for one fetch.
    """

    refresh: float = 300.0
    lifetime: float = 86_400.0
    refetch: float = 2.0
    wait: float = 6.0


class KeySource:
    """An issuer's keys. One task fetches them, `run`; everybody else only waits for what it finds."""

    def __init__(
        self, name: str, provider: Provider, pace: Pace = Pace(), clock: Callable[[], float] = monotonic
    ) -> None:
        self.name = name
        self._provider = provider
        self._pace = pace
        self._clock = clock
        self._keys: dict[str, tuple[VerificationKey, ...]] = {}
        self._thumbprints: frozenset[str] = frozenset()
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failure = ""  # of the last try
        self._under_way = False
        self._wanted = asyncio.Event()
        self._round = asyncio.Event()  # set when the fetch that is next, or under way, has ended

    async def look(self) -> str:
        """Fetches once; how many keys there are.

        Raises:
            Unavailable: none were got, with the reason for the operator.
        """
        self._take(await self._provider.fetch())
        return f"{len(self._thumbprints)} key{'' if len(self._thumbprints) == 1 else 's'}"

    async def run(self) -> None:
        """Fetches until cancelled: now, when it is time, and when it is asked to."""
        _fetched.labels(self.name).set_to_current_time()  # so that one that is never got is missed too
        try:
            while True:
                await self._fetch()
                pause = min(_RETRY_SECONDS, self._pace.refresh) if self._failure else self._pace.refresh
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
        finally:
            with suppress(KeyError):
                _fetched.remove(self.name)

    async def key(self, key_id: str, algorithm: str) -> VerificationKey:
        """The key of this name.

        Raises:
            CredentialRefused: the issuer has none for this algorithm.
            Unavailable: that cannot be told now.
        """
        if not self._count():
            await self._next_fetch()
        if not self._count():
            raise self._unavailable()
        if found := self._find(key_id, algorithm):
            return found
        await self._next_fetch()
        if found := self._find(key_id, algorithm):
            return found
        if self._failure:
            raise self._unavailable()
        raise CredentialRefused("the token's issuer has no such key")

    def believes(self, key: VerificationKey) -> bool:
        """Whether what this key signed still counts: when it was last looked, not too long ago, it was published."""
        return key.thumbprint in self._thumbprints and self._count()

    def _count(self) -> bool:
        return self._fetched_at is not None and self._clock() - self._fetched_at < self._pace.lifetime

    def _find(self, key_id: str, algorithm: str) -> VerificationKey | None:
        return next((key for key in self._keys.get(key_id, ()) if algorithm in key.algorithms), None)

    async def _next_fetch(self) -> None:
        """Waits for a fetch: however many ask, there is one at a time.

        Not where the last one was just now, or has failed: then `run` tries again by itself, and nobody waits for that.
        """
        recent = self._tried_at is not None and self._clock() - self._tried_at < self._pace.refetch
        if self._failure or (recent and not self._under_way):
            return
        ended = self._round
        if not self._under_way:
            self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.wait):
                await ended.wait()

    def _unavailable(self) -> Unavailable:
        return Unavailable("the identity provider cannot be asked now; try again", retry_after=_RETRY_SECONDS)

    async def _fetch(self) -> None:
        self._under_way = True
        self._wanted.clear()
        try:
            async with asyncio.timeout(self._pace.wait):
                self._take(await self._provider.fetch())
            self._fetched_at, failure = self._clock(), ""
            _fetched.labels(self.name).set_to_current_time()
        except TimeoutError:
            failure = "it gives no answer in time"
        except NotaryError as error:
            failure = error.message
        except Exception as error:  # whatever an issuer answers must not end the others' keys
            failure = f"its answer cannot be dealt with: {type(error).__name__}"
        finally:
            self._under_way = False
            self._tried_at = self._clock()
            ended, self._round = self._round, asyncio.Event()
            ended.set()
        _fetches.labels(self.name, "failed" if failure else "ok").inc()
        if failure and failure != self._failure:
            fields = {"issuer": self.name, "reason": failure}
            logger.warning("an issuer's keys cannot be fetched", extra={"fields": fields})
        self._failure = failure

    def _take(self, published: Sequence[Jwk]) -> None:
        keys: dict[str, tuple[VerificationKey, ...]] = {}
        for jwk in published[:_MOST_KEYS]:
            if key := _usable(jwk):
                keys[key.key_id] = (*keys.get(key.key_id, ()), key)
        if not keys:
            raise Unavailable("it publishes no key that can verify a token")
        self._keys = keys
        self._thumbprints = frozenset(key.thumbprint for same in keys.values() for key in same)


def _usable(jwk: Jwk) -> VerificationKey | None:
    """A key that verifies signatures; None of what is for something else, secret, or of an unknown kind."""
    key_id, made = jwk.get("kid"), _KINDS.get(str(jwk.get("kty")))
    if not isinstance(key_id, str) or made is None or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    members = ("kty", "crv", "x", "y", "n", "e")
    try:
        key = made.import_key({name: jwk[name] for name in members if name in jwk})
        names = _algorithms_of(key)
        thumbprint = key.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if isinstance(said := jwk.get("alg"), str):
        names = frozenset({said}) & names
    return VerificationKey(key_id, names, thumbprint, key) if names else None


def _algorithms_of(key: PublicKey) -> frozenset[str]:
    if isinstance(key, RSAKey):
        return frozenset(_RSA if _LEAST_RSA_BITS <= key.raw_value.key_size <= _MOST_RSA_BITS else ())
    return frozenset(_CURVES.get(key.curve_name, ()))
