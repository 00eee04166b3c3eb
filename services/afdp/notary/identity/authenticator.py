"""Who calls, by what the call brings: a bearer token, or else a client certificate."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from time import time

from afdp.notary.access import admitted
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.identity.keys import KeySource, VerificationKey
from afdp.notary.identity.principals import CertificatePrincipals, TokenPrincipals
from afdp.notary.identity.settings import IdentitySettings
from afdp.notary.identity.token import MAX_TOKEN_BYTES, read_token
from afdp.notary.identity.verification import TokenVerifier
from afdp.notary.model import Principal
from afdp.rpc.caller import Caller, PeerCertificate

_BASIC_METHODS = frozenset({"AddLogEntry", "AddLogEntries"})
_MAX_USER_BYTES = 256


@dataclass(frozen=True, slots=True)
class _Issuer:
    verifier: TokenVerifier
    principals: TokenPrincipals
    keys: KeySource


@dataclass(slots=True)
class _Known:
    """A token that was verified. It counts until it ends, and while its key does."""

    principal: Principal
    key: VerificationKey
    keys: KeySource
    expires: float
    certificate_hash: str


class CredentialAuthenticator:
    """Believes the issuers and certificates of one file of settings.

    A token decides who calls, whatever certificate it comes with; if it is bound to one (RFC 8705), it must come with
    that. A certificate decides where no credentials are sent.
    """

    def __init__(
        self, settings: IdentitySettings, keys: Mapping[str, KeySource], clock: Callable[[], float] = time
    ) -> None:
        self._issuers = {
            each.issuer: _Issuer(TokenVerifier(each, keys[each.issuer]), TokenPrincipals(each), keys[each.issuer])
            for each in settings.issuers
        }
        self._certificates = CertificatePrincipals(settings.certificates)
        self._basic_tokens = settings.basic_tokens
        self._most_known = settings.cached_tokens
        self._clock = clock
        self._known: dict[bytes, _Known] = {}

    async def authenticate(self, caller: Caller) -> Principal:
        """Whom the credentials of a call belong to.

        Raises:
            CredentialRefused: to nobody that is believed.
            Unavailable: that cannot be told now.
        """
        if caller.authorization:
            known = await self._bearer(self._token(caller.authorization))
            _check_binding(known, caller.certificate)
            known.principal = principal = _at(known.principal, caller.address)  # the next call is from there too
        elif caller.certificate is not None:
            principal = _at(self._certificates.principal(caller.certificate), caller.address)
        else:
            raise CredentialRefused("there are no credentials")
        return principal

    def _token(self, authorization: str) -> str:
        scheme, _, credentials = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return credentials.strip(" ")
            case "basic" if self._basic_tokens and admitted.rpc.get() in _BASIC_METHODS:
                return _password(credentials.strip(" "))
            case _:
                raise CredentialRefused("the credentials are of a kind that is not taken")

    async def _bearer(self, text: str) -> _Known:
        if len(text) > MAX_TOKEN_BYTES:
            raise CredentialRefused("the token is too large")
        now = self._clock()
        digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
        if known := self._known.get(digest):
            if now < known.expires and known.keys.believes(known.key):
                return known
            del self._known[digest]
        token = read_token(text)
        issuer = self._issuers.get(token.issuer)
        if issuer is None:
            raise CredentialRefused("the token is of an issuer that is not known")
        verified = await issuer.verifier.verify(token, now)
        principal = issuer.principals.principal(verified.claims)
        known = _Known(principal, verified.key, issuer.keys, verified.expires, verified.certificate_hash)
        self._remember(digest, known)
        return known

    def _remember(self, digest: bytes, known: _Known) -> None:
        if not self._most_known:
            return
        while len(self._known) >= self._most_known:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[digest] = known


def _at(principal: Principal, address: str) -> Principal:
    """The principal where it calls from."""
    if principal.attributes.address == address:
        return principal
    return replace(principal, attributes=replace(principal.attributes, address=address))


def _password(credentials: str) -> str:
    """The password of Basic credentials (RFC 7617)."""
    if len(credentials) > (MAX_TOKEN_BYTES + _MAX_USER_BYTES) * 4 // 3 + 4:
        raise CredentialRefused("the token is too large")
    try:
        _, colon, password = base64.b64decode(credentials, validate=True).decode("ascii").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise CredentialRefused("the credentials cannot be read") from None
    if not colon:
        raise CredentialRefused("the credentials cannot be read")
    return password


def _check_binding(known: _Known, certificate: PeerCertificate | None) -> None:
    if not known.certificate_hash:
        return
    if certificate is None:
        raise CredentialRefused("the token is bound to a client certificate, and there is none")
    shown = base64.urlsafe_b64encode(sha256(certificate.der).digest()).rstrip(b"=")
    if not compare_digest(shown, known.certificate_hash.encode()):
        raise CredentialRefused("the token is bound to another client certificate")
