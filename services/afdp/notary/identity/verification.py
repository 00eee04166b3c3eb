"""Whether a token is its issuer's, is meant for us, and holds now (RFC 7519, section 4.1; RFC 9068; RFC 8725)."""

from __future__ import annotations

from dataclasses import dataclass

from joserfc import jws
from joserfc.errors import JoseError

from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.identity.claims import Claims, texts
from afdp.notary.identity.keys import KeySource, VerificationKey
from afdp.notary.identity.settings import IssuerSettings
from afdp.notary.identity.token import UnverifiedToken

_TYPES = {"any": ("", "jwt", "at+jwt"), "at+jwt": ("at+jwt",)}
_CLIENT_CLAIMS = ("azp", "client_id", "appid", "cid")


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that was found good.

    Attributes:
        claims: what it says.
        key: what it was verified with.
        expires: when it ends, in seconds since 1970, with its leeway.
        certificate_hash: of the only certificate that it may be used with (RFC 8705), base64url; empty: any, or none.
    """

    claims: Claims
    key: VerificationKey
    expires: float
    certificate_hash: str


class TokenVerifier:
    """Verifies the tokens of one issuer."""

    def __init__(self, settings: IssuerSettings, keys: KeySource) -> None:
        self._settings = settings
        self._keys = keys
        self._algorithms = frozenset(settings.algorithms)
        self._types = _TYPES[settings.token_type]
        self._registry = jws.JWSRegistry(algorithms=sorted(self._algorithms), strict_check_header=False)

    async def verify(self, token: UnverifiedToken, now: float) -> Verified:
        """The token's claims, which are true now, as far as its issuer knows.

        Claims are looked at before keys: a token that has ended asks nothing of its issuer.

        Raises:
            CredentialRefused: with the first thing that is wrong.
            Unavailable: its issuer's keys are not known now.
        """
        if token.algorithm not in self._algorithms:
            raise CredentialRefused("the token is signed with an algorithm that is not allowed")
        if token.type not in self._types:
            raise CredentialRefused("the token is of another type")
        expires = self._check_times(token.claims, now)
        self._check_audience(token.claims)
        bound = _certificate_hash(token.claims)
        key = await self._keys.key(token.key_id, token.algorithm)
        try:
            jws.deserialize_compact(token.text, key.key, registry=self._registry)
        except (JoseError, ValueError, TypeError):
            raise CredentialRefused("the token's signature is not valid") from None
        return Verified(token.claims, key, expires, bound)

    def _check_times(self, claims: Claims, now: float) -> float:
        leeway = self._settings.leeway_seconds
        ends, begins, made = (_seconds(claims, name) for name in ("exp", "nbf", "iat"))
        if ends is None:
            raise CredentialRefused("the token has no end")
        if now >= ends + leeway:
            raise CredentialRefused("the token has expired")
        if begins is not None and now < begins - leeway:
            raise CredentialRefused("the token is not valid yet")
        if made is not None and now < made - leeway:
            raise CredentialRefused("the token was made in the future")
        if ends - (made if made is not None else now) > self._settings.max_lifetime_seconds + leeway:
            raise CredentialRefused("the token is made for too long")
        return ends + leeway

    def _check_audience(self, claims: Claims) -> None:
        try:
            audiences = texts(claims.get("aud"))
            client = next((word for name in _CLIENT_CLAIMS for word in texts(claims.get(name))), "")
        except ValueError:
            raise CredentialRefused("the token has a claim that is not as expected") from None
        if set(self._settings.audiences).isdisjoint(audiences):
            raise CredentialRefused("the token is for another audience")
        if self._settings.clients and client not in self._settings.clients:
            raise CredentialRefused("the token was made for a client that is not allowed")


def _seconds(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        raise CredentialRefused("the token has a time that is none")
    return float(value)


def _certificate_hash(claims: Claims) -> str:
    """The certificate that the token is bound to (RFC 7800). Of other proofs of possession none can be shown here."""
    bound = claims.get("cnf")
    if bound is None:
        return ""
    thumbprint = bound.get("x5t#S256") if isinstance(bound, dict) and len(bound) == 1 else None
    if not isinstance(thumbprint, str) or not thumbprint:
        raise CredentialRefused("the token is bound to a proof that is not supported")
    return thumbprint
