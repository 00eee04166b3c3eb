"""Callers by their tokens, through the whole stack: REST and gRPC, with a provider that issues them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from afdp.client import AsyncNotaryClient, Retry
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.errors import PermissionDenied, ResourceExhausted, Unauthenticated
from afdp.rpc.caller import Caller
from tests.conftest import open_folder
from tests.e2e.conftest import NO_KEY_RECORDS, free_offset
from tests.e2e.evidence import package
from tests.keycloak_server import Keycloak
from tests.local_entries import ENTRIES, fresh_request
from tests.local_issuer import LocalIssuer, running_identity, write_identity
from tests.stock_cosign import Cosign


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> LocalIssuer:
    return LocalIssuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def file(issuer: LocalIssuer) -> Path:
    return write_identity(issuer.folder / "identity.yaml", {"issuers": [issuer.settings()], "basic_tokens": True})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(file: Path) -> AsyncIterator[Stack]:
    """A stack that lets nobody in but the bearers of tokens."""
    notary = {"AFDP_AUTH": "required", "AFDP_IDENTITY": str(file), "AFDP_AUDIT_INTERVAL_SECONDS": "0.5"}
    settings = {"notary": {**NO_KEY_RECORDS, **notary}}
    with open_folder() as folder:
        async with running_stack(StackOptions(folder / "data", free_offset(), settings=settings)) as stack:
            yield stack


@pytest_asyncio.fixture(loop_scope="session")
async def rest(guarded: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=30) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def over_grpc(stack: Stack, token: str) -> AsyncNotaryClient:
    return AsyncNotaryClient.over_grpc(f"127.0.0.1:{stack.port('notary')}", token=token, retry=Retry(attempts=1))


async def sign(rest: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    return await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()}, headers=headers)


async def test_a_receipt_says_who_submitted_its_evidence(rest: httpx.AsyncClient, issuer: LocalIssuer) -> None:
    answer = await sign(rest, bearer(issuer.token()))

    assert answer.status_code == 200
    envelope = answer.json()["receipt"]["bundle"]["dsseEnvelope"]
    predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    assert predicate["notary"]["submitter"] == {"issuer": issuer.issuer, "method": "oidc", "subject": "7b0c"}
    assert predicate["notary"]["tenant"] == "acme"


async def test_nobody_is_let_in_without_a_token_that_is_believed(rest: httpx.AsyncClient, issuer: LocalIssuer) -> None:
    spoilt = issuer.token()[:-8] + "AAAAAAAA"
    for headers in ({}, bearer(spoilt), bearer("a" * 8000), {"authorization": "Basic YTpi"}):
        answer = await sign(rest, headers)

        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["detail"] == "the credentials are missing or not valid"


async def test_a_token_that_is_too_large_is_refused_before_it_is_looked_at(
    rest: httpx.AsyncClient, guarded: Stack
) -> None:
    assert (await sign(rest, bearer("a" * 10_000))).status_code == 431
    assert (await sign(rest, bearer("a" * 65_536))).status_code == 431
    async with over_grpc(guarded, "a" * 14_000) as notary:
        with pytest.raises(Unauthenticated):
            await notary.search_evidence()
    async with over_grpc(guarded, "a" * 65_536) as notary:
        with pytest.raises(ResourceExhausted):  # by gRPC's own bound on metadata
            await notary.search_evidence()


async def test_tokens_are_for_grpc_too(guarded: Stack, issuer: LocalIssuer) -> None:
    async with over_grpc(guarded, issuer.token()) as notary:
        assert isinstance((await notary.search_evidence()).items, tuple)
    async with over_grpc(guarded, issuer.token(issuer.claims(scope="afdp.notary.write"))) as notary:
        with pytest.raises(PermissionDenied):
            await notary.search_evidence()


async def test_a_token_as_the_password_of_a_url_adds_log_entries_and_does_nothing_else(
    rest: httpx.AsyncClient, issuer: LocalIssuer
) -> None:
    cosigns = httpx.BasicAuth("ci", issuer.token(issuer.claims(scope="afdp.notary.write")))

    assert (await rest.post(ENTRIES, json=fresh_request(), auth=cosigns)).status_code == 201
    assert (await rest.post(ENTRIES, json=fresh_request(), auth=("ci", "guessed"))).status_code == 401
    assert (await rest.post(ENTRIES, json=fresh_request())).status_code == 401
    answer = await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()}, auth=cosigns)
    assert answer.status_code == 401


async def test_stock_cosign_adds_log_entries_with_a_token_in_the_url(
    guarded: Stack, issuer: LocalIssuer, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    token = issuer.token(issuer.claims(scope="afdp.notary.write"))
    for name, password in (("ci", token), ("stranger", "guessed")):
        (folder := tmp_path / name).mkdir()
        url = guarded.url.replace("http://", f"http://{name}:{password}@")
        cosign = Cosign((tool("cosign"), tool("afdp")), folder, guarded.url, url)

        if password == token:
            await asyncio.to_thread(cosign.sign_and_verify)
            assert len(cosign.entries()) == 2
        else:
            with pytest.raises(AssertionError, match="401"):
                await asyncio.to_thread(cosign.sign_and_verify)


async def test_no_token_stands_in_a_log_and_each_refusal_has_its_reason_there(
    rest: httpx.AsyncClient, guarded: Stack, issuer: LocalIssuer
) -> None:
    good, ended = issuer.token(), issuer.token(issuer.claims(exp=1_700_000_000))
    assert (await sign(rest, bearer(good))).status_code == 200
    assert (await sign(rest, bearer(ended))).status_code == 401

    async with asyncio.timeout(30):  # the same refusals of nobody in particular are told together, a little later
        while True:
            logs = "".join(each.read_text() for each in (guarded.data_dir / "logs").iterdir())
            if "the token has expired" in logs:
                break
            await asyncio.sleep(0.1)
    for token in (good, ended):
        assert not [part for part in token.split(".")[1:] if part in logs]


# --- Keycloak, with people from a directory ---------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def provider(keycloak: Keycloak, guarded: Stack, file: Path, issuer: LocalIssuer) -> Keycloak:
    """Keycloak, once the running stack believes it: its settings' file is followed."""
    write_identity(file, {"issuers": [issuer.settings(), keycloak.settings()]})
    headers = bearer(await keycloak.client_token())
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=30) as rest:
        while True:
            answer = await rest.get("/api/v1/evidence", headers=headers)
            assert answer.status_code in (200, 401)
            if answer.status_code == 200:
                return keycloak
            await asyncio.sleep(0.1)


async def test_somebody_of_the_directory_logs_in_and_notarises(
    provider: Keycloak, guarded: Stack, tmp_path: Path
) -> None:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "AFDP_URL": guarded.url}

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        afdp = Path(sys.executable).with_name("afdp")
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(afdp, *arguments, env=environment, stdout=pipe, stderr=pipe)

    login = await start("login", "--issuer", provider.issuer, "--client-id", "afdp-cli")
    assert login.stderr is not None
    page = (await login.stderr.readline()).decode().removeprefix("Open ").strip()
    await provider.agree(page, "alice", "alice's password")
    said = (await asyncio.wait_for(login.communicate(), 60))[0].decode()
    assert login.returncode == 0
    assert "ai_engineer" in said

    (tmp_path / "model.bin").write_bytes(os.urandom(16))
    sign = await start("sign", str(tmp_path / "model.bin"), "-o", str(tmp_path / "receipt.json"))
    _, errors = await sign.communicate()
    assert sign.returncode == 0, errors
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    notary = json.loads(base64.b64decode(receipt["bundle"]["dsseEnvelope"]["payload"]))["predicate"]["notary"]
    assert (notary["tenant"], notary["submitter"]["issuer"]) == ("acme", provider.issuer)
    assert "alice" not in json.dumps(notary)

    keys = await start("keys", "rotate", "--json")
    _, errors = await keys.communicate()
    assert (keys.returncode, b"not permitted" in errors) == (1, True), errors


async def test_a_second_factor_is_told_by_the_level_of_the_log_in(provider: Keycloak, file: Path) -> None:
    async with running_identity(file) as identity:
        for level, more in (("silver", False), ("gold", True)):
            token = await provider.person_token("carol", "carol's password", level)
            principal = await identity.authenticate(Caller(f"Bearer {token}"))

            assert principal.roles == {"security_analyst"}
            assert principal.attributes.mfa is more
            assert principal.attributes.authenticated_at is not None


async def test_a_rotation_at_the_provider_fails_no_request(provider: Keycloak, rest: httpx.AsyncClient) -> None:
    old = await provider.client_token()
    answers: list[int] = []
    rotated = asyncio.Event()

    async def ask(token: str, count: int) -> None:
        while count > 0 or not rotated.is_set():
            count -= 1
            answers.append((await rest.get("/api/v1/evidence", headers=bearer(token))).status_code)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(old, 1))
        await provider.rotate_key()
        new = await asyncio.gather(*(provider.client_token() for _ in range(4)))
        for token in new:
            tasks.create_task(ask(token, 5))
        rotated.set()

    assert set(answers) == {200}
    assert len({json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "==="))["kid"] for token in [old, *new]}) == 2
