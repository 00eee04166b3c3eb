"""An issuer of tokens of a test's own: its keys in a file, its tokens as they should be or as a test spoils them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from afdp.notary.identity.identity import Identity
from afdp.process import running

ISSUER = "https://issuer.example"
AUDIENCE = "afdp-notary"

_EVERY = jws.JWSRegistry(
    algorithms=["RS256", "PS256", "ES256", "ES384", "Ed25519", "HS256", "none"], strict_check_header=False
)


@dataclass
class LocalIssuer:
    """Signs; publishes its keys into `folder`."""

    folder: Path
    issuer: str = ISSUER
    keys: dict[str, ECKey | RSAKey | OKPKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys.setdefault("one", ECKey.generate_key("P-256"))
        self.publish()

    @property
    def file(self) -> Path:
        """Its JWK set."""
        return self.folder / "keys.json"

    @property
    def jwks(self) -> dict[str, Any]:
        """Its public keys."""
        return {"keys": [{**key.as_dict(private=False), "kid": name, "use": "sig"} for name, key in self.keys.items()]}

    def publish(self) -> None:
        """Writes its public keys, in one step."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.jwks))
        new.replace(self.file)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a good token says, but for the changes; None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "7b0c",
            "iat": now,
            "exp": now + 300,
            "scope": "openid afdp.notary.read afdp.notary.write",
            "realm_access": {"roles": ["ai_engineer", "offline_access"]},
            "tenant": "acme",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, claims: Mapping[str, Any] | None = None, *, key: str = "one", header: Mapping[str, Any] | None = None
    ) -> str:
        """A token, signed with one of its keys; None in the header leaves a parameter out."""
        signer = self.keys[key]
        full = {"alg": _algorithm(signer), "kid": key, "typ": "JWT", **(header or {})}
        full = {name: value for name, value in full.items() if value is not None}
        return jws.serialize_compact(full, json.dumps(claims or self.claims()), signer, registry=_EVERY)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Its entry in a file of settings, but for the changes; None leaves one out."""
        settings = {
            "issuer": self.issuer,
            "audiences": AUDIENCE,
            "keys": {"file": str(self.file)},
            "roles": {"claims": "realm_access.roles"},
            "tenant": {"claim": "tenant"},
            **changes,
        }
        return {name: value for name, value in settings.items() if value is not None}


def raw_token(header: Any, payload: Any, signature: bytes = b"signature") -> str:
    """A token of parts as they are given: bytes, or values that become JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


def write_identity(file: Path, settings: Mapping[str, Any]) -> Path:
    """The file that AFDP_IDENTITY names, in one step."""
    new = file.with_suffix(".new")
    new.write_text(yaml.safe_dump(dict(settings)))
    return new.replace(file)


@asynccontextmanager
async def running_identity(file: Path) -> AsyncIterator[Identity]:
    """The settings in force, as the notary has them."""
    identity = Identity(file)
    async with running(identity.run()):
        yield identity


def _algorithm(key: ECKey | RSAKey | OKPKey) -> str:
    if isinstance(key, ECKey):
        return {"P-256": "ES256", "P-384": "ES384"}[key.curve_name]
    return "RS256" if isinstance(key, RSAKey) else "Ed25519"
