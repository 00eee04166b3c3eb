"""Keys of a real provider: discovered, rotated under load, withdrawn, and what is done while it is away."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from afdp.errors import Unavailable
from afdp.notary.access.checking import identity as look
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.config import NotarySettings
from afdp.notary.identity.identity import Identity
from afdp.notary.identity.provider import HttpProvider
from afdp.rpc.caller import Caller
from tests.local_issuer import raw_token, running_identity, write_identity
from tests.local_tls import TlsAuthority
from tests.oidc_provider import OidcProvider, running_oidc_provider

QUICK = {"refresh_seconds": 0.2, "lifetime_seconds": 0.6, "refetch_seconds": 0.1}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def provider(tool: Callable[[str], Path]) -> AsyncIterator[OidcProvider]:
    async with running_oidc_provider(tool) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def identity(provider: OidcProvider, tmp_path: Path) -> AsyncIterator[Identity]:
    settings = provider.settings(keys={"refetch_seconds": 0.01})
    async with running_identity(write_identity(tmp_path / "identity.yaml", {"issuers": [settings]})) as running:
        yield running


def shown(token: str) -> Caller:
    return Caller(f"Bearer {token}")


async def until_refused(identity: Identity, token: str) -> None:
    async with asyncio.timeout(10):
        while True:
            await identity.authenticate(shown(token))
            await asyncio.sleep(0.02)


def fetches(issuer: str) -> float:
    labels = {"issuer": issuer, "result": "ok"}
    return REGISTRY.get_sample_value("afdp_notary_identity_key_fetches_total", labels) or 0.0


async def test_a_rotation_under_load_fails_no_call_and_asks_the_provider_once(
    provider: OidcProvider, identity: Identity
) -> None:
    old = await provider.token()
    assert (await identity.authenticate(shown(old))).roles == {"ai_engineer"}
    await provider.rotate()
    new = [await provider.token(sub=f"subject {number}") for number in range(20)]
    before = fetches(provider.issuer)

    found = await asyncio.gather(*(identity.authenticate(shown(token)) for token in [*new, old] * 4))

    assert {each.tenant for each in found} == {"acme"}
    assert fetches(provider.issuer) == before + 1


async def test_a_token_that_is_known_is_refused_once_its_key_is_withdrawn(
    provider: OidcProvider, tmp_path: Path
) -> None:
    settings = provider.settings(keys={**QUICK, "lifetime_seconds": 60})
    async with running_identity(write_identity(tmp_path / "identity.yaml", {"issuers": [settings]})) as identity:
        old = await provider.token()
        await identity.authenticate(shown(old))
        await provider.rotate()
        await provider.withdraw()

        with pytest.raises(CredentialRefused, match="no such key"):
            await until_refused(identity, old)


async def test_many_unknown_keys_make_few_questions(provider: OidcProvider, identity: Identity) -> None:
    await identity.authenticate(shown(await provider.token()))
    before = fetches(provider.issuer)
    claims = {"iss": provider.issuer, "aud": "afdp-notary", "exp": int(time.time()) + 60}
    tokens = [raw_token({"alg": "RS256", "kid": f"none-{n}"}, claims) for n in range(500)]

    answers = await asyncio.gather(*(identity.authenticate(shown(token)) for token in tokens), return_exceptions=True)

    assert {type(answer) for answer in answers} == {CredentialRefused}
    assert fetches(provider.issuer) <= before + 2


async def test_while_a_provider_is_away_known_keys_go_on_until_they_are_too_old(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    async with running_oidc_provider(tool) as provider:
        settings = provider.settings(keys=QUICK)
        file = write_identity(tmp_path / "identity.yaml", {"issuers": [settings]})
        token, other = await provider.token(), await provider.token(sub="other")
        async with running_identity(file) as identity:
            await identity.authenticate(shown(token))
            provider.process.kill()
            await provider.process.wait()

            await identity.authenticate(shown(token))
            await identity.authenticate(shown(other))
            with pytest.raises(Unavailable) as away:
                await until_refused(identity, token)
            assert away.value.retry_after

            async with running_oidc_provider(tool, provider.port) as again, asyncio.timeout(20):
                while True:
                    try:
                        await identity.authenticate(shown(await again.token()))
                        break
                    except Unavailable:
                        await asyncio.sleep(0.1)


async def test_a_check_says_which_issuers_keys_can_be_had(provider: OidcProvider, tmp_path: Path) -> None:
    away = provider.settings(issuer="http://127.0.0.1:1")
    file = write_identity(tmp_path / "identity.yaml", {"issuers": [provider.settings(), away]})

    found = await look(NotarySettings(auth="required", identity=file))

    assert [(each.name, each.good) for each in found] == [("identity", True), ("issuer", True), ("issuer", False)]
    assert "cannot be reached" in found[2].detail
    write_identity(file, {"issuers": [provider.settings(audience="x")]})
    (wrong,) = await look(NotarySettings(auth="required", identity=file))
    assert "issuers[0].audience" in wrong.detail
    assert not (await look(NotarySettings(auth="required")))[0].good
    assert await look(NotarySettings()) == []


# --- what a provider answers ------------------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """Answers as a test tells it to: by path, a status, headers and a body."""

    told: dict[str, tuple[int, dict[str, str], bytes]]

    def do_GET(self) -> None:
        status, headers, body = self.told.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def answering(**told: Any) -> Iterator[str]:
    """A server that gives these answers; `URL` in them is its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Answers,), {}))
    url = f"http://127.0.0.1:{server.server_port}"
    made = {}
    for name, answer in told.items():
        status, headers, body = answer if isinstance(answer, tuple) else (200, {}, answer)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name: value.replace("URL", url) for name, value in headers.items()}
        path = "/.well-known/openid-configuration" if name == "discovery" else f"/{name}"
        made[path] = (status, headers, text.replace(b"URL", url.encode()))
    server.RequestHandlerClass.told = made  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()


DISCOVERY = {"issuer": "URL", "jwks_uri": "URL/keys"}
KEYS: dict[str, Any] = {"keys": [{"kty": "EC", "kid": "a"}]}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"discovery": {**DISCOVERY, "issuer": "https://other.example"}, "keys": KEYS}, "another issuer"),
    "no discovery": ({"keys": KEYS}, "answers 404"),
    "a redirect": ({"discovery": (302, {"location": "URL/keys"}, b""), "keys": KEYS}, "answers 302"),
    "a redirect of keys": ({"discovery": DISCOVERY, "keys": (307, {"location": "https://evil.example"}, b"")}, "307"),
    "keys in the clear": ({"discovery": {**DISCOVERY, "jwks_uri": "http://192.0.2.1/keys"}}, "must begin with https"),
    "keys in a file": ({"discovery": {**DISCOVERY, "jwks_uri": "file:///etc/passwd"}}, "must be a URL"),
    "no keys": ({"discovery": DISCOVERY, "keys": {"key": []}}, "no JWK set"),
    "a list": ({"discovery": [], "keys": KEYS}, "no JSON object"),
    "a page": ({"discovery": b"<html>"}, "not JSON"),
    "members twice": ({"discovery": b'{"issuer":"URL","issuer":"URL"}'}, "not JSON"),
    "compressed": ({"discovery": (200, {"content-encoding": "gzip"}, b"\x1f\x8b")}, "compressed"),
    "too much": ({"discovery": DISCOVERY, "keys": b"[" + b" " * 300_000 + b"]"}, "more than"),
    "an error": ({"discovery": (500, {}, b"")}, "answers 500"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_provider_that_does_not_answer_as_it_should_is_not_believed(case: str) -> None:
    told, reason = WRONG[case]
    with answering(**told) as url, pytest.raises(Unavailable, match=re.escape(reason)):
        await HttpProvider(url, f"{url}/.well-known/openid-configuration", "").fetch()


async def test_keys_are_found_by_discovery_or_at_their_url() -> None:
    with answering(discovery=DISCOVERY, keys=KEYS) as url:
        assert await HttpProvider(url, f"{url}/.well-known/openid-configuration", "").fetch() == KEYS["keys"]
        assert await HttpProvider("https://any.example", "", f"{url}/keys").fetch() == KEYS["keys"]


async def test_a_providers_certificate_is_verified(tmp_path: Path) -> None:
    mine, other = TlsAuthority(tmp_path), TlsAuthority(tmp_path, "Other authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*mine.issue("provider"))
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Told", (Answers,), {"told": {"/keys": (200, {}, json.dumps(KEYS).encode())}})
    )
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_port}/keys"
    try:
        assert await HttpProvider("https://any.example", "", url, mine.file).fetch() == KEYS["keys"]
        for ca_file in (other.file, None):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await HttpProvider("https://any.example", "", url, ca_file).fetch()
        with pytest.raises(Unavailable, match="cannot be read"):
            await HttpProvider("https://any.example", "", url, tmp_path / "nothing.pem").fetch()
    finally:
        server.shutdown()
        server.server_close()
