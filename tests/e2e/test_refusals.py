"""Whatever should not get in, tried on a running stack: who sends it learns nothing, and the audit trail says why."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio

from afdp.certs.authority import Authority, Issued
from afdp.certs.names import TRUST_DOMAIN, Names
from afdp.client import ClientTls, NotaryClient
from afdp.embedded.process import free_port
from afdp.embedded.stack import LOG_PORT, METRICS_PORTS, Stack, StackOptions, running_stack
from afdp.errors import Unauthenticated
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.forged_certificates import forge
from tests.http_attacks import HEADS, LENGTHS, statuses
from tests.local_issuer import LocalIssuer, raw_token, write_identity

AWAY = "https://127.0.0.1:1"
LIST_KEYS = "/afdp.notary.v1.NotaryService/ListKeys"


@dataclass(frozen=True)
class Guarded:
    """A stack that believes one issuer and one that is away, and knows its admin by a certificate."""

    stack: Stack
    issuer: LocalIssuer
    authority: Authority
    offset: int
    token_port: int
    identity: Path

    def client(self, issued: Issued | None = None) -> httpx.AsyncClient:
        """Of the gateway, that shows a certificate, or none."""
        tls = ClientTls(self.authority.file, *((issued.cert, issued.key) if issued else (None, None)))
        return httpx.AsyncClient(base_url=self.stack.url, trust_env=False, verify=tls.context(), timeout=30)

    async def raw(self, port: int, sent: bytes, **versions: ssl.TLSVersion) -> bytes:
        """One answer over TLS, as it comes."""
        context = ssl.create_default_context(cafile=self.authority.file)
        for name, version in versions.items():
            setattr(context, name, version)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            writer.write(sent)
            async with asyncio.timeout(60):
                head = await reader.readuntil(b"\r\n\r\n")
                return head + await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        finally:
            writer.transport.abort()

    async def on_record(self, reasons: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The rows of the audit trail with these reasons, once all are there."""
        wanted, found = set(reasons), dict[str, dict[str, Any]]()
        after = 0
        async with self.client(self.authority.issued("admin")) as admin, asyncio.timeout(120):
            while not wanted <= found.keys():
                query: dict[str, Any] = {"all_tenants": "true", "after_sequence": after, "page_size": 1000}
                answer = await admin.get("/api/v1/audit/rows", params=query)
                assert answer.status_code in (200, 429, 503, 504), answer.text  # a busy machine decides nothing
                for each in answer.json().get("rows", ()):
                    after = max(after, int(each["sequence"]))
                    row = json.loads(each["row"])
                    found[row.get("reason", "")] = row
                await asyncio.sleep(0.1)
        return found

    def log(self, service: str) -> str:
        return (self.stack.data_dir / "logs" / f"{service}.log").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded() -> AsyncIterator[Guarded]:
    with open_folder() as folder:
        issuer = LocalIssuer(folder)
        away = issuer.settings(issuer=AWAY, keys={"url": f"{AWAY}/keys"})
        admin = {"uri": f"spiffe://{TRUST_DOMAIN}/user/admin", "tenant": "default", "roles": "admin"}
        file = write_identity(folder / "identity.yaml", {"issuers": [issuer.settings(), away], "certificates": [admin]})
        often = {"AFDP_AUDIT_INTERVAL_SECONDS": "0.3"}
        notary = {**NO_KEY_RECORDS, **often, "AFDP_AUTH": "required", "AFDP_IDENTITY": str(file)}
        offset, token_port = free_offset(), free_port()
        notary["AFDP_TOKEN_PORT"] = str(token_port)
        options = StackOptions(folder / "data", offset, tls=True, settings={"notary": notary, "gateway": often})
        async with running_stack(options) as stack:
            yield Guarded(stack, issuer, Authority(stack.certificates), offset, token_port, file)


# --- credentials -----------------------------------------------------------------------------------------------------


def claims_of(issuer: LocalIssuer, **changes: Any) -> dict[str, Any]:
    return issuer.claims(realm_access={"roles": ["admin"]}, **changes)


def public_key_as_secret(issuer: LocalIssuer) -> str:
    unsigned = raw_token({"alg": "HS256", "kid": "one", "typ": "JWT"}, claims_of(issuer), b"")[:-1]
    return raw_token(
        {"alg": "HS256", "kid": "one", "typ": "JWT"},
        claims_of(issuer),
        hmac.digest(json.dumps(issuer.jwks["keys"][0]).encode(), unsigned.encode(), "sha256"),
    )


def headed(issuer: LocalIssuer, **header: Any) -> str:
    return raw_token({"alg": "ES256", "kid": "one", "typ": "JWT", **header}, claims_of(issuer))


TOKENS: dict[str, Callable[[LocalIssuer], str]] = {
    "there are no credentials": lambda _: "",
    "the token is not signed": lambda issuer: raw_token({"alg": "none", "kid": "one"}, claims_of(issuer), b""),
    "the token is signed with an algorithm that is not allowed": public_key_as_secret,
    "the token's issuer has no such key": lambda issuer: headed(issuer, kid="two"),
    "the token's header has a parameter that is not allowed": lambda issuer: headed(issuer, jku="https://evil.example"),
    "the token's signature is not valid": headed,
    "the token has expired": lambda issuer: issuer.token(claims_of(issuer, exp=1_700_000_000)),
    "the token is not valid yet": lambda issuer: issuer.token(claims_of(issuer, nbf=int(time.time()) + 200_000)),
    "the token is for another audience": lambda issuer: issuer.token(claims_of(issuer, aud="somebody")),
    "the token is of an issuer that is not known": lambda issuer: issuer.token(
        claims_of(issuer, iss="https://x.example")
    ),
    "the token has no tenant, or more than one": lambda issuer: issuer.token(
        claims_of(issuer, tenant=["acme", "bank"])
    ),
    "the token is bound to a client certificate, and there is none": lambda issuer: issuer.token(
        claims_of(issuer, cnf={"x5t#S256": "0ZcOCORZNYy"})
    ),
}


async def test_every_token_that_is_not_believed_hears_the_same_and_the_trail_says_why(guarded: Guarded) -> None:
    heard = set[str]()
    async with guarded.client() as rest:
        for make in TOKENS.values():
            token = make(guarded.issuer)
            answer = await rest.get("/api/v1/keys", headers={"authorization": f"Bearer {token}"} if token else {})
            heard.add(json.dumps([answer.status_code, {**answer.json(), "request_id": ""}]))
            assert "Bearer" in answer.headers["www-authenticate"]

    rows = await guarded.on_record(TOKENS)
    assert len(heard) == 1
    assert {rows[reason]["result"] for reason in TOKENS} == {"deny"}
    assert {rows[reason]["last_address"] for reason in TOKENS} == {"127.0.0.1"}
    assert '"status": 401' in heard.pop()


async def test_over_grpc_they_hear_the_same_too(guarded: Guarded) -> None:
    heard = set[tuple[grpc.StatusCode, str | None]]()
    engineer = guarded.authority.issued("engineer")
    files = (guarded.authority.file, engineer.key, engineer.cert)
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    async with grpc.aio.secure_channel(f"127.0.0.1:{guarded.stack.port('notary')}", credentials) as channel:
        for make in TOKENS.values():
            token = make(guarded.issuer)
            metadata = [("authorization", f"Bearer {token}")] if token else []
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(LIST_KEYS)(b"", metadata=metadata, timeout=30)
            heard.add((refused.value.code(), refused.value.details()))
        twice = [("authorization", f"Bearer {guarded.issuer.token(claims_of(guarded.issuer))}")] * 2
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(LIST_KEYS)(b"", metadata=twice, timeout=30)
        heard.add((refused.value.code(), refused.value.details()))

    assert heard == {(grpc.StatusCode.UNAUTHENTICATED, "the credentials are missing or not valid")}


async def test_a_token_is_enough_over_grpc_where_the_port_asks_for_no_certificate(guarded: Guarded) -> None:
    address, tls = f"127.0.0.1:{guarded.token_port}", ClientTls(guarded.authority.file)

    def keys(token: str) -> int:
        with NotaryClient.over_grpc(address, tls=tls, token=token) as notary:
            return len(notary.list_keys())

    assert await asyncio.to_thread(keys, guarded.issuer.token(claims_of(guarded.issuer, tenant="default"))) > 0
    with pytest.raises(Unauthenticated):
        await asyncio.to_thread(keys, guarded.issuer.token(claims_of(guarded.issuer, aud="somebody")))


async def test_while_an_issuer_is_away_its_tokens_hear_when_to_come_again(guarded: Guarded) -> None:
    token = guarded.issuer.token(claims_of(guarded.issuer, iss=AWAY))
    async with guarded.client() as rest:
        answer = await rest.get("/api/v1/keys", headers={"authorization": f"Bearer {token}"})

    reason = "the identity provider cannot be asked now; try again"
    row = (await guarded.on_record([reason]))[reason]
    assert (answer.status_code, answer.json()["code"], row["result"]) == (503, "UNAVAILABLE", "error")
    assert int(answer.headers["retry-after"]) >= 1
    assert AWAY not in answer.text


async def test_what_decides_is_on_record_by_its_hash(guarded: Guarded) -> None:
    start = "in force at the start; by their files"
    rows = await guarded.on_record([f"the policies: {start}", f"the identity settings: {start}"])

    identity = sha256(guarded.identity.read_bytes()).hexdigest()
    assert rows[f"the identity settings: {start}"]["resource"] == f"identity:{identity}"
    async with guarded.client(guarded.authority.issued("admin")) as admin:
        asked = (await admin.get("/api/v1/whoami")).json()
    assert rows[f"the policies: {start}"]["resource"] == f"policy:{asked['policy_hash']}"


# --- connections -----------------------------------------------------------------------------------------------------

HANDSHAKES = {
    "self-signed certificate": lambda folder, _: forge(folder, ADMIN),
    "unable to get local issuer certificate": lambda folder, _: Authority.make(folder, TRUST_DOMAIN).issue("a", ADMIN),
    "certificate has expired": lambda folder, ours: forge(folder, ADMIN, ours, days=-1),
    "permitted subtree violation": lambda folder, ours: forge(folder, Names(dns=("x.example.org",)), ours),
}
ADMIN = Names(uris=(f"spiffe://{TRUST_DOMAIN}/user/admin",))


async def test_every_handshake_that_is_refused_is_in_the_trail_with_its_reason(
    guarded: Guarded, tmp_path: Path
) -> None:
    port = guarded.stack.port("gateway")
    for number, make in enumerate(HANDSHAKES.values()):
        async with guarded.client(make(tmp_path / str(number), guarded.authority)) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/api/v1/keys")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await guarded.raw(port, b"", minimum_version=ssl.TLSVersion.TLSv1_2, maximum_version=ssl.TLSVersion.TLSv1_2)
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False) as plain:
            assert (await plain.get(f"http://127.0.0.1:{port}/health")).status_code >= 400

    reasons = [f"the TLS handshake failed: {words}" for words in (*HANDSHAKES, "unsupported protocol", "http request")]
    rows = await guarded.on_record(f"at the gateway: {reason}" for reason in reasons)
    assert {rows[f"at the gateway: {reason}"]["step"] for reason in reasons} == {"authentication"}
    log = guarded.log("gateway")
    assert [reason for reason in reasons if reason not in log] == []


async def test_the_log_of_every_port_says_why_a_handshake_failed(guarded: Guarded, tmp_path: Path) -> None:
    stranger = forge(tmp_path / "stranger", ADMIN)
    ports = {
        "notary": guarded.stack.port("notary"),
        "signer": guarded.stack.port("signer"),
        "transparency": LOG_PORT + guarded.offset,
        "metadata": METRICS_PORTS["metadata"] + guarded.offset,
    }
    old = ssl.TLSVersion.TLSv1_2
    for port in ports.values():
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await guarded.raw(port, b"", minimum_version=old, maximum_version=old)
    async with guarded.client(stranger) as client:
        for name in ("notary", "metadata"):
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await client.get(f"https://localhost:{ports[name]}/")

    expected = {  # over gRPC in the words of its own library
        "notary": ["NO_SHARED_CIPHER", "self signed certificate"],
        "signer": ["NO_SHARED_CIPHER"],
        "transparency": ["the TLS handshake failed: unsupported protocol"],
        "metadata": ["the TLS handshake failed: unsupported protocol", "the TLS handshake failed: self-signed"],
    }
    async with asyncio.timeout(60):
        while missing := [
            (name, each) for name, all_ in expected.items() for each in all_ if each not in guarded.log(name)
        ]:
            assert missing
            await asyncio.sleep(0.1)  # they are files of other processes


async def test_a_revoked_certificate_is_in_the_trail_whichever_way_it_comes(guarded: Guarded) -> None:
    issued = guarded.authority.issue("leaving", ADMIN, server=False)
    guarded.authority.revoke("leaving")
    files = (guarded.authority.file, issued.key, issued.cert)
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))

    async def over_rest() -> int:
        async with guarded.client(issued) as rest:
            return (await rest.get("/api/v1/keys")).status_code

    async def over_grpc() -> grpc.StatusCode:
        async with grpc.aio.secure_channel(f"127.0.0.1:{guarded.stack.port('notary')}", credentials) as channel:
            try:
                await channel.unary_unary(LIST_KEYS)(b"", timeout=30)
                return grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                return error.code()

    async with asyncio.timeout(60):  # until all have read the list
        while "the certificate is revoked" not in guarded.log("gateway"):
            assert await over_rest() != 403
        while True:
            if await over_grpc() is grpc.StatusCode.UNAUTHENTICATED:
                break
            await asyncio.sleep(0.1)

    await guarded.on_record(["the certificate is revoked", "at the gateway: the certificate is revoked"])


async def test_nobody_but_the_gateway_reports_refusals(guarded: Guarded) -> None:
    report = "/afdp.edge.v1.EdgeService/ReportRefusals"
    for person in ("admin", "metadata"):
        issued = guarded.authority.issued(person)
        files = (guarded.authority.file, issued.key, issued.cert)
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        async with grpc.aio.secure_channel(f"127.0.0.1:{guarded.stack.port('notary')}", credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(report)(b"", timeout=30)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


# --- requests --------------------------------------------------------------------------------------------------------

BOMB = b'{"evidence_package":' + b'{"metadata":' * 5000 + b"1" + b"}" * 5001
FLOOD = b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % each for each in range(150)) + b"\r\n"
HUGE_TOKEN = b"GET /api/v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"a" * 65536 + b"\r\n\r\n"


async def test_every_attack_by_http_is_refused_short_and_in_the_trail(guarded: Guarded) -> None:
    port = guarded.stack.port("gateway")
    answers = {
        "smuggled": await guarded.raw(port, LENGTHS["a length, then chunked"]),
        "two hosts": await guarded.raw(port, HEADS["two Hosts"]),
        "header flood": await guarded.raw(port, FLOOD),
        "64 KiB token": await guarded.raw(port, HUGE_TOKEN),
    }
    async with guarded.client() as rest:
        bomb = await rest.post("/api/v1/evidence/sign", content=BOMB, headers={"content-type": "application/json"})
        path = await rest.get("/log/tile/0/%2e%2e/%2e%2e/%2e%2e/etc/passwd")
        nobody = await rest.get("/api/v1/evidence", params={"event_type": "a.b' OR '1'='1"})
    async with guarded.client(guarded.authority.issued("admin")) as admin:
        wrong = await admin.get("/api/v1/evidence", params={"event_type": "x'; DROP TABLE record; --"})
        still = await admin.get("/api/v1/evidence")

    assert {name: statuses(answer) for name, answer in answers.items()} == {
        "smuggled": [400],
        "two hosts": [400],
        "header flood": [431],
        "64 KiB token": [431],
    }
    assert (bomb.status_code, path.status_code, nobody.status_code, still.status_code) == (400, 404, 401, 200)
    assert wrong.status_code in (200, 400)
    said = [answer.decode() for answer in answers.values()] + [bomb.text, path.text, nobody.text, wrong.text]
    assert [text for text in said if "Traceback" in text or ".py" in text or len(text) > 2000] == []
    rows = await guarded.on_record(
        f"at the gateway: {reason}"
        for reason in (
            "before it was a request: this is not an HTTP/1.1 request",
            "before it was a request: a request has one Host, and it must be valid",
            "before it was a request: the request has over 100 headers",
            "before it was a request: the request's line and headers are over 32768 bytes",
            "the log has no such file; it serves checkpoint, vkey, tile/L/N and tile/entries/N",
        )
    )
    assert [reason for reason in rows if "nest" in reason and reason.startswith("at the gateway: ")]
