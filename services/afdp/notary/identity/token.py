"""A token as it was sent, read and not believed yet (RFC 7515, 7519): strict, bounded, before any key is touched."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.identity.claims import Claims

MAX_TOKEN_BYTES = 16 * 1024
_MAX_HEADER_BYTES = 1024
_MAX_DEPTH = 10

_PART = re.compile(r"[A-Za-z0-9_-]+")
_KEY_ID = re.compile(r"[\x21-\x7e]{1,256}")

# What brings a key along, or changes what is signed: a key comes from the issuer, by its ID, and no other way.
_FORBIDDEN = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "enc", "zip"})


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token's parts. Nothing of it has been proved.

    Attributes:
        text: all of it.
        algorithm: what it says it is signed with.
        key_id: which key of its issuer it says it is signed with.
        type: `typ` of its header, in small letters and without `application/`; empty where it has none.
        issuer: who it says has made it.
        claims: all that it says.
    """

    text: str
    algorithm: str
    key_id: str
    type: str
    issuer: str
    claims: Claims


def read_token(text: str) -> UnverifiedToken:
    """Reads a signed token in its compact form.

    Raises:
        CredentialRefused: it is none, or one that nobody has a use for.
    """
    if len(text) > MAX_TOKEN_BYTES:
        raise CredentialRefused("the token is too large")
    parts = text.split(".", 5)
    if len(parts) == 5:
        raise CredentialRefused("the token is encrypted")
    if len(parts) != 3:
        raise CredentialRefused("the credential is not a signed token")
    if not parts[2]:
        raise CredentialRefused("the token is not signed")
    header = _object(parts[0], "the token's header cannot be read", _MAX_HEADER_BYTES)
    if not _FORBIDDEN.isdisjoint(header):
        raise CredentialRefused("the token's header has a parameter that is not allowed")
    if str(header.get("cty", "")).lower().endswith("jwt"):
        raise CredentialRefused("the token has another token inside")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(algorithm, str) or not isinstance(kind, str):
        raise CredentialRefused("the token's header cannot be read")
    if algorithm.lower() == "none":
        raise CredentialRefused("the token is not signed")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise CredentialRefused("the token names no key")
    claims = _object(parts[1], "the token's claims cannot be read", MAX_TOKEN_BYTES)
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise CredentialRefused("the token names no issuer")
    return UnverifiedToken(text, algorithm, key_id, kind.lower().removeprefix("application/"), issuer, claims)


def _object(part: str, refusal: str, limit: int) -> Claims:
    if not _PART.fullmatch(part) or len(part) > limit * 4 // 3 + 4:
        raise CredentialRefused(refusal)
    try:
        value = strict_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)), max_depth=_MAX_DEPTH)
    except (binascii.Error, InvalidArgument):
        raise CredentialRefused(refusal) from None
    if not isinstance(value, dict):
        raise CredentialRefused(refusal)
    return value
