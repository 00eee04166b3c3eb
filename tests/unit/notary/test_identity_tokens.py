"""Tokens: who is believed, and each way in which a token is not what it should be."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey, RSAKey

from afdp.formats.statement import Submitter
from afdp.notary.access import admitted
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.identity.identity import Identity
from afdp.notary.model import Principal
from afdp.rpc.caller import Caller, PeerCertificate
from tests.local_issuer import LocalIssuer, raw_token, running_identity, write_identity

Whose = Callable[..., Any]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> LocalIssuer:
    keys: dict[str, ECKey | RSAKey | OKPKey] = {
        "one": ECKey.generate_key("P-256"),
        "rsa": RSAKey.generate_key(2048),
        "ed": OKPKey.generate_key("Ed25519"),
    }
    return LocalIssuer(tmp_path_factory.mktemp("issuer"), keys=keys)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def identity(issuer: LocalIssuer) -> AsyncIterator[Identity]:
    believed = issuer.settings(
        algorithms=["ES256", "RS256", "Ed25519"],
        clients=["pipeline"],
        mfa={"acr": "gold", "amr": ["otp", "mfa"]},
        groups={"claims": "groups"},
        clearance={"claims": "clearance"},
        residency={"claims": "/custom.io/residency"},
    )
    file = write_identity(issuer.folder / "identity.yaml", {"issuers": [believed], "basic_tokens": True})
    async with running_identity(file) as running:
        yield running


@pytest.fixture
def whose(identity: Identity) -> Whose:
    async def ask(token: str, **caller: Any) -> Principal:
        return await identity.authenticate(Caller(f"Bearer {token}", **caller))

    return ask


@pytest.fixture
def good(issuer: LocalIssuer) -> dict[str, Any]:
    return issuer.claims(azp="pipeline")


async def test_a_token_says_who_calls_and_what_is_known_of_them(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any]
) -> None:
    claims = {
        **good,
        "acr": "gold",
        "auth_time": 1_780_000_000,
        "groups": ["risk"],
        "clearance": "internal",
        "custom.io": {"residency": "EU"},
    }

    principal = await whose(issuer.token(claims), address="192.0.2.7")

    assert principal.tenant == "acme"
    assert principal.submitter == Submitter(issuer.issuer, "7b0c", "oidc")
    assert principal.roles == {"ai_engineer", "offline_access"}
    assert principal.scopes == {"openid", "afdp.notary.read", "afdp.notary.write"}
    known = principal.attributes
    assert (known.credential, known.groups, known.clearance, known.residency) == ("token", {"risk"}, "internal", "EU")
    assert (known.mfa, known.address) == (True, "192.0.2.7")
    assert known.authenticated_at == datetime.fromtimestamp(1_780_000_000, UTC)
    assert known.expires_at == datetime.fromtimestamp(good["exp"], UTC)


@pytest.mark.parametrize("key", ["one", "rsa", "ed"])
async def test_each_allowed_algorithm_is_verified(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any], key: str
) -> None:
    assert (await whose(issuer.token(good, key=key))).tenant == "acme"


async def test_a_known_token_from_another_address_keeps_who_it_is_and_tells_the_address(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any]
) -> None:
    token = issuer.token(good)

    first, second = await whose(token, address="192.0.2.1"), await whose(token, address="192.0.2.2")

    assert (first.attributes.address, second.attributes.address) == ("192.0.2.1", "192.0.2.2")
    assert first.submitter == second.submitter


@pytest.mark.parametrize("amr", [["pwd", "otp"], ["mfa"]])
async def test_more_than_one_factor_is_read_from_amr(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any], amr: list[str]
) -> None:
    assert (await whose(issuer.token({**good, "amr": amr}))).attributes.mfa
    assert not (await whose(issuer.token({**good, "amr": ["pwd"], "acr": "1"}))).attributes.mfa


# Times are told from the moment of the test, which may come long after this file was read.
CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": timedelta(seconds=-31)}, "the token has expired"),
    "without an end": ({"exp": None}, "the token has no end"),
    "an end that is text": ({"exp": "2000000000"}, "the token has a time that is none"),
    "an end that is true": ({"exp": True}, "the token has a time that is none"),
    "not yet valid": ({"nbf": timedelta(minutes=10)}, "the token is not valid yet"),
    "made in the future": (
        {"iat": timedelta(minutes=10), "exp": timedelta(minutes=15)},
        "the token was made in the future",
    ),
    "made for a year": ({"exp": timedelta(days=365)}, "the token is made for too long"),
    "another audience": ({"aud": "afdp-notary-2"}, "the token is for another audience"),
    "no audience": ({"aud": None}, "the token is for another audience"),
    "an audience that is an object": ({"aud": {"afdp-notary": 1}}, "the token is for another audience"),
    "another client": ({"azp": "somebody"}, "the token was made for a client that is not allowed"),
    "another issuer": ({"iss": "https://issuer.example.evil"}, "the token is of an issuer that is not known"),
    "an issuer with a slash more": ({"iss": "https://issuer.example/"}, "the token is of an issuer that is not known"),
    "no issuer": ({"iss": None}, "the token names no issuer"),
    "issuers": ({"iss": ["https://issuer.example"]}, "the token names no issuer"),
    "no subject": ({"sub": None}, "the token has no subject"),
    "an empty subject": ({"sub": ""}, "the token has no subject"),
    "a subject with a line break": ({"sub": "a\nb"}, "the token has no subject"),
    "a long subject": ({"sub": "s" * 256}, "the token has no subject"),
    "no tenant": ({"tenant": None}, "the token has no tenant, or more than one"),
    "two tenants": ({"tenant": ["acme", "bank"]}, "the token has no tenant, or more than one"),
    "a tenant that is SQL": (
        {"tenant": "acme'; DROP TABLE records;--"},
        "the token has a tenant whose name is not allowed",
    ),
    "a tenant that is a path": ({"tenant": "../other"}, "the token has a tenant whose name is not allowed"),
    "too many roles": (
        {"realm_access": {"roles": ["r"] * 257}},
        "the token has a claim that is not as expected",
    ),
    "two clearances": ({"clearance": ["internal", "secret"]}, "the token has a claim that is not as expected"),
    "bound to a key": ({"cnf": {"jkt": "0ZcOCORZNYy"}}, "the token is bound to a proof that is not supported"),
}


@pytest.mark.parametrize("case", CLAIMS)
async def test_a_token_whose_claims_are_wrong_is_refused_and_the_operator_is_told_why(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any], case: str
) -> None:
    changes, reason = CLAIMS[case]
    claims = {name: _as_claim(value) for name, value in {**good, **changes}.items() if value is not None}

    with pytest.raises(CredentialRefused) as refused:
        await whose(issuer.token(claims))

    assert refused.value.reason == reason


def _as_claim(value: object) -> object:
    return int(time.time() + value.total_seconds()) if isinstance(value, timedelta) else value


def header(**changes: Any) -> dict[str, Any]:
    return {"alg": "ES256", "kid": "one", "typ": "JWT", **changes}


async def refusal(whose: Whose, token: str) -> str:
    with pytest.raises(CredentialRefused) as refused:
        await whose(token)
    return refused.value.reason


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "jku": ({"jku": "https://evil.example/keys"}, "the token's header has a parameter that is not allowed"),
    "x5u": ({"x5u": "https://evil.example/chain"}, "the token's header has a parameter that is not allowed"),
    "jwk": ({"jwk": {"kty": "oct", "k": "AAAA"}}, "the token's header has a parameter that is not allowed"),
    "x5c": ({"x5c": ["MIIB"]}, "the token's header has a parameter that is not allowed"),
    "crit": ({"crit": ["exp"], "exp": 1}, "the token's header has a parameter that is not allowed"),
    "an unencoded payload": ({"b64": False, "crit": ["b64"]}, "the token's header has a parameter that is not allowed"),
    "a key that is not there": ({"kid": "two"}, "the token's issuer has no such key"),
    "a key that is a path": ({"kid": "../../../dev/null"}, "the token's issuer has no such key"),
    "a key that is SQL": ({"kid": "one'/**/UNION/**/SELECT/**/1"}, "the token's issuer has no such key"),
    "a key with a NUL": ({"kid": "one\0"}, "the token's header cannot be read"),
    "a key that is a list": ({"kid": ["one"]}, "the token names no key"),
    "no key": ({"kid": None}, "the token names no key"),
    "another type": ({"typ": "logout+jwt"}, "the token is of another type"),
    "a type that is a number": ({"typ": 1}, "the token's header cannot be read"),
    "a token inside": ({"cty": "JWT"}, "the token has another token inside"),
    "an algorithm that is not allowed": ({"alg": "ES384"}, "the token is signed with an algorithm that is not allowed"),
    "no algorithm": ({"alg": None}, "the token's header cannot be read"),
    "alg none": ({"alg": "none"}, "the token is not signed"),
    "alg NoNe": ({"alg": "NoNe"}, "the token is not signed"),
}


@pytest.mark.parametrize("case", HEADERS)
async def test_a_token_whose_header_is_wrong_is_refused(whose: Whose, good: dict[str, Any], case: str) -> None:
    changes, reason = HEADERS[case]

    made = {name: value for name, value in header(**changes).items() if value is not None}

    assert await refusal(whose, raw_token(made, good)) == reason


async def test_a_token_without_a_signature_is_refused(whose: Whose, good: dict[str, Any]) -> None:
    assert await refusal(whose, raw_token(header(alg="none"), good, b"")) == "the token is not signed"
    assert await refusal(whose, raw_token(header(), good, b"")) == "the token is not signed"


async def test_a_public_key_is_no_secret(issuer: LocalIssuer, whose: Whose, good: dict[str, Any]) -> None:
    rsa = issuer.keys["rsa"]
    assert isinstance(rsa, RSAKey)
    public = rsa.public_key
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(issuer.jwks["keys"][1]).encode(),
    ):
        unsigned = raw_token(header(alg="HS256", kid="rsa"), good, b"")[:-1]
        mac = hmac.digest(secret, unsigned.encode(), "sha256")
        token = raw_token(header(alg="HS256", kid="rsa"), good, mac)
        assert await refusal(whose, token) == "the token is signed with an algorithm that is not allowed"


async def test_a_changed_token_is_refused(issuer: LocalIssuer, whose: Whose, good: dict[str, Any]) -> None:
    head, _, signature = issuer.token(good).split(".")
    claims = base64.urlsafe_b64encode(json.dumps({**good, "tenant": "bank"}).encode()).rstrip(b"=").decode()

    assert await refusal(whose, f"{head}.{claims}.{signature}") == "the token's signature is not valid"


async def test_a_key_is_used_with_its_own_algorithm_only(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any]
) -> None:
    token = raw_token(header(alg="RS256"), good)

    assert await refusal(whose, token) == "the token's issuer has no such key"


async def test_a_token_of_another_key_with_this_ones_name_is_refused(
    tmp_path: Path, whose: Whose, good: dict[str, Any]
) -> None:
    thief = LocalIssuer(tmp_path)

    assert await refusal(whose, thief.token(good)) == "the token's signature is not valid"


async def test_members_that_stand_twice_are_refused(whose: Whose, good: dict[str, Any]) -> None:
    claims = json.dumps(good)[:-1] + ', "tenant": "bank"}'

    assert await refusal(whose, raw_token(header(), claims.encode())) == "the token's claims cannot be read"
    twice = b'{"alg":"none","alg":"ES256","kid":"one"}'
    assert await refusal(whose, raw_token(twice, good)) == "the token's header cannot be read"


NOT_TOKENS = {
    "empty": ("", "the credential is not a signed token"),
    "opaque": ("d0c8f5d2", "the credential is not a signed token"),
    "two parts": ("a.b", "the credential is not a signed token"),
    "many parts": ("." * 15_000, "the credential is not a signed token"),
    "64 KiB": ("a" * 65_536, "the token is too large"),
    "not base64url": ("a+b/.e30.c2ln", "the token's header cannot be read"),
    "a header that is a list": (raw_token([], {}), "the token's header cannot be read"),
    "a header that is no JSON": (raw_token(b"{", {}), "the token's header cannot be read"),
    "a large header": (raw_token({"alg": "ES256", "pad": "a" * 1100}, {}), "the token's header cannot be read"),
    "claims that are a token": (
        raw_token(header(), raw_token(header(), {}).encode()),
        "the token's claims cannot be read",
    ),
    "claims that are deep": (
        raw_token(header(), b'{"a":' + b"[" * 50 + b"]" * 50 + b"}"),
        "the token's claims cannot be read",
    ),
    "claims in UTF-16": (raw_token(header(), '{"iss":"a"}'.encode("utf-16")), "the token's claims cannot be read"),
}


@pytest.mark.parametrize("case", NOT_TOKENS)
async def test_what_is_no_token_is_refused(whose: Whose, case: str) -> None:
    text, reason = NOT_TOKENS[case]

    assert await refusal(whose, text) == reason


async def test_an_encrypted_token_is_refused(issuer: LocalIssuer, whose: Whose, good: dict[str, Any]) -> None:
    key = issuer.keys["rsa"]
    token = jwe.encrypt_compact(
        {"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "rsa"}, json.dumps(good), key, algorithms=["RSA-OAEP", "A256GCM"]
    )

    assert await refusal(whose, token) == "the token is encrypted"


async def test_a_bound_token_comes_with_its_certificate_only(
    issuer: LocalIssuer, whose: Whose, good: dict[str, Any]
) -> None:
    mine, other = (PeerCertificate(("spiffe://a/b",), (), der, 4e9) for der in (b"mine", b"other"))
    bound = base64.urlsafe_b64encode(sha256(mine.der).digest()).rstrip(b"=").decode()
    token = issuer.token({**good, "cnf": {"x5t#S256": bound}})

    assert (await whose(token, certificate=mine)).tenant == "acme"
    for certificate in (None, other):
        with pytest.raises(CredentialRefused, match="bound"):
            await whose(token, certificate=certificate)
    assert (await whose(token, certificate=mine)).tenant == "acme"


async def test_what_is_sent_beside_tokens_is_refused(identity: Identity) -> None:
    for authorization in ("", "Bearer", "Digest username=a", "Basic YTpi", "DPoP a.b.c", "bearer\ta.b.c"):
        with pytest.raises(CredentialRefused):
            await identity.authenticate(Caller(authorization))


async def test_a_token_may_be_a_password_where_log_entries_are_added_only(
    issuer: LocalIssuer, identity: Identity, good: dict[str, Any]
) -> None:
    basic = "Basic " + base64.b64encode(f"cosign:{issuer.token(good)}".encode()).decode()

    admitted.rpc.set("AddLogEntry")
    assert (await identity.authenticate(Caller(basic))).tenant == "acme"
    for spoilt in ("Basic ???", "Basic " + base64.b64encode(b"no-colon").decode(), "Basic " + "A" * 30_000):
        with pytest.raises(CredentialRefused):
            await identity.authenticate(Caller(spoilt))
    admitted.rpc.set("SignEvidence")
    with pytest.raises(CredentialRefused):
        await identity.authenticate(Caller(basic))


async def test_a_known_token_costs_microseconds(issuer: LocalIssuer, identity: Identity, good: dict[str, Any]) -> None:
    caller = Caller(f"Bearer {issuer.token(good)}")
    await identity.authenticate(caller)

    started = time.process_time()
    for _ in range(1000):
        await identity.authenticate(caller)
    each = (time.process_time() - started) / 1000

    assert each < 50e-6  # some 3 µs; a signature alone takes more than 50


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("aud", "exp", "nbf", "iat", "sub", "azp", "tenant", "scope", "realm_access", "acr", "amr", "auth_time", "cnf")
CLAIM = st.sampled_from([*NAMES, "groups", "clearance", "custom.io"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(CLAIM, JSON, max_size=4))
async def test_whatever_an_issuer_writes_into_a_token_it_is_taken_or_refused(
    issuer: LocalIssuer, identity: Identity, good: dict[str, Any], changes: dict[str, Any]
) -> None:
    with suppress(CredentialRefused):
        principal = await identity.authenticate(Caller(f"Bearer {issuer.token({**good, **changes})}"))
        assert principal.tenant
        assert principal.submitter.subject


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(authorization=st.text(max_size=60) | st.builds(lambda *parts: "Bearer " + ".".join(parts), *[st.text()] * 3))
async def test_whatever_a_stranger_sends_is_refused(identity: Identity, authorization: str) -> None:
    with pytest.raises(CredentialRefused):
        await identity.authenticate(Caller(authorization))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "cty", "x"]), JSON), claims=JSON)
async def test_whatever_stands_in_a_token_that_nobody_signed_it_is_refused(
    identity: Identity, good: dict[str, Any], made: dict[str, Any], claims: Any
) -> None:
    for token in (raw_token(header(**made), good), raw_token(made, good), raw_token(header(), claims)):
        with pytest.raises(CredentialRefused):
            await identity.authenticate(Caller(f"Bearer {token}"))
