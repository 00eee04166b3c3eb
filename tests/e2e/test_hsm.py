"""A whole stack whose keys are in a token of SoftHSM2."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from afdp.embedded.process import LOOPBACK, ServerProcess, free_port
from afdp.embedded.stack import Stack, StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.formats.statement import EVIDENCE_PREDICATE_TYPE
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import SIGN, get, problem, sign
from tests.e2e.conftest import fetch_trust, free_offset
from tests.e2e.evidence import package
from tests.local_token import LocalToken

KEYS = {
    "afdp-hsm-key:1": "PKIX_ECDSA_P256_SHA_256",
    "afdp-hsm-log-key:1": "PKIX_ED25519",
    "afdp-hsm-timestamp-key:1": "PKIX_ECDSA_P256_SHA_256",
    "afdp-hsm-trust-key:1": "PKIX_ED25519",
}


def signer(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The signer's process, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "afdp.signer", *arguments],
        env={"PATH": os.environ["PATH"], "AFDP_TLS": "off", "AFDP_DATA_DIR": str(folder / "signer"), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def hsm(tool: Callable[[str], Path]) -> LocalToken:
    with open_folder() as folder:
        made = LocalToken.make(folder / "softhsm", tool("softhsm2-util"))
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own_stack(hsm: LocalToken) -> AsyncIterator[Stack]:
    with open_folder() as folder:
        made = signer(hsm.signer_settings, folder, "create-keys")
        assert made.returncode == 0, made.stderr
        options = StackOptions(folder / "data", free_offset(), settings={"signer": hsm.signer_settings})
        async with running_stack(options) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own(own_stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=own_stack.url, trust_env=False, timeout=30) as client:
        yield client


def test_keys_are_made_by_a_command_and_made_once(token: LocalToken, tmp_path: Path) -> None:
    first = signer(token.signer_settings, tmp_path, "create-keys")
    assert first.returncode == 0, first.stderr
    made = dict(line.split()[:2] for line in first.stdout.splitlines())
    assert made == {**KEYS, "afdp-hsm-data-key": "HMAC_SHA_256"}

    again = signer(token.signer_settings, tmp_path, "create-keys")
    assert (again.returncode, again.stdout) == (0, "")


def test_the_signer_does_not_start_on_a_token_without_its_keys(token: LocalToken, tmp_path: Path) -> None:
    refused = signer({**token.signer_settings, "AFDP_PORT": "0", "AFDP_METRICS_PORT": "0"}, tmp_path)

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        "signer: the token has no key afdp-hsm-key: `python -m afdp.signer create-keys` makes it"
    )


async def test_a_signer_that_starts_while_its_token_is_away_serves_when_it_comes(
    token: LocalToken, tmp_path: Path
) -> None:
    assert signer(token.signer_settings, tmp_path, "create-keys").returncode == 0
    token.store.rename(token.folder / "drawer")
    port = free_port()
    process = await ServerProcess.spawn(
        "signer",
        [sys.executable, "-m", "afdp.signer"],
        log=tmp_path / "signer.log",
        environment={
            "PATH": os.environ["PATH"],
            "AFDP_DATA_DIR": str(tmp_path / "signer"),
            "AFDP_PORT": str(port),
            "AFDP_TLS": "off",
            "AFDP_METRICS_PORT": "0",
            **token.signer_settings,
        },
        folder=tmp_path,
    )
    try:
        async with asyncio.timeout(30), grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
            await channel.channel_ready()
            said: Any = HealthStub(channel).Watch(HealthCheckRequest())
            assert (await said.read()).status == HealthCheckResponse.NOT_SERVING
            (token.folder / "drawer").rename(token.store)
            assert (await said.read()).status == HealthCheckResponse.SERVING
    finally:
        await process.stop()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("AFDP_PKCS11_MODULE", "AFDP_PKCS11_MODULE"),
        ("AFDP_PKCS11_TOKEN_LABEL", "AFDP_PKCS11_TOKEN_LABEL or AFDP_PKCS11_TOKEN_SERIAL"),
        ("AFDP_PKCS11_PIN_FILE", "AFDP_PKCS11_PIN_FILE or AFDP_PKCS11_PIN"),
    ],
)
def test_a_setting_that_is_missing_is_named(token: LocalToken, tmp_path: Path, missing: str, said: str) -> None:
    told = {name: value for name, value in token.signer_settings.items() if name != missing}

    refused = signer(told, tmp_path, "create-keys")

    assert refused.returncode == 1
    assert said in refused.stderr


def test_the_pin_is_taken_from_the_environment_and_masked_where_settings_are_shown(
    token: LocalToken, tmp_path: Path
) -> None:
    told = {**token.signer_settings, "AFDP_PKCS11_PIN": token.pin}
    del told["AFDP_PKCS11_PIN_FILE"]

    assert signer(told, tmp_path, "create-keys").returncode == 0
    shown = signer(told, tmp_path, "config").stdout
    assert json.loads(shown)["pkcs11_pin"] == "**********"
    assert token.pin not in shown


async def test_a_receipt_of_a_token_verifies(own: httpx.AsyncClient) -> None:
    answer = await sign(own)

    receipt = Receipt.from_json(json.dumps(answer["receipt"]).encode())
    verified = verify_receipt(receipt, await fetch_trust(own))
    assert verified.verified, verified
    assert receipt.key_id.startswith("afdp-hsm-key:")
    keys = {key["key_id"]: key["algorithm"] for key in (await get(own, "/api/v1/keys"))["keys"]}
    assert keys.items() >= KEYS.items()


async def test_a_receipt_of_a_token_verifies_with_cosign_and_with_afdp(
    own: httpx.AsyncClient, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    cosign = tool("cosign")
    (tmp_path / "model.bin").write_bytes(b"weights")
    environment = {**os.environ, "AFDP_URL": str(own.base_url), "HOME": str(tmp_path)}

    async def run(*command: str | Path) -> None:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()

    afdp = (sys.executable, "-m", "afdp.cli")
    await run(*afdp, "sign", "model.bin", "--event-type", "ai.model.deployed", "-o", "receipt.json")
    await run(*afdp, "trust", "export", "-o", "trust")
    await run(*afdp, "verify", "receipt.json", "--artifact", "model.bin", "--trust", "trust")
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(receipt["bundle"]))
    key = tmp_path / "trust/keys" / f"{receipt['key_id']}.pem"
    files = ("--key", key, "--trusted-root", "trust/trusted_root.json", "--bundle", "bundle.json")
    kind = ("--type", EVIDENCE_PREDICATE_TYPE, "--use-signed-timestamps")
    await run(cosign, "verify-blob-attestation", *files, *kind, "model.bin")


async def test_a_rotation_makes_a_version_in_the_token_and_receipts_of_both_verify(own: httpx.AsyncClient) -> None:
    before = (await sign(own))["receipt"]
    fresh = (await own.post("/api/v1/keys:rotate", json={})).raise_for_status().json()["key"]["key_id"]
    after = (await sign(own))["receipt"]

    assert after["key_id"] == fresh != before["key_id"]
    trust = await fetch_trust(own)
    for receipt in (before, after):
        assert verify_receipt(Receipt.from_json(json.dumps(receipt).encode()), trust).verified


async def test_a_token_that_is_gone_is_503_and_the_service_comes_back_alone(
    own: httpx.AsyncClient, hsm: LocalToken
) -> None:
    await sign(own)
    hsm.store.rename(hsm.folder / "drawer")

    refused = await own.post(SIGN, json={"evidence_package": package()})
    problem(refused, 503, "UNAVAILABLE")
    assert int(refused.headers["retry-after"]) >= 1
    assert "token" in refused.json()["detail"]

    (hsm.folder / "drawer").rename(hsm.store)
    await until_it_signs(own)


async def test_a_restarted_signer_finds_its_keys(own_stack: Stack, own: httpx.AsyncClient) -> None:
    before = await get(own, "/api/v1/keys")
    os.kill(own_stack.server("signer").pid, signal.SIGKILL)
    await until_it_signs(own)

    def lasting(keys: dict[str, Any]) -> list[tuple[str, ...]]:
        return [(key["key_id"], key["public_key_pem"], key["valid_from"]) for key in keys["keys"]]

    assert lasting(await get(own, "/api/v1/keys")) == lasting(before)


async def test_the_pin_is_in_no_log_and_no_argument(own_stack: Stack, own: httpx.AsyncClient, hsm: LocalToken) -> None:
    await sign(own)
    logs = "".join(path.read_text() for path in (own_stack.data_dir / "logs").iterdir())

    assert "logged in to the token" in logs
    assert hsm.pin not in logs
    assert hsm.pin not in command_line(own_stack.server("signer").pid)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def until_it_signs(rest: httpx.AsyncClient) -> None:
    async with asyncio.timeout(20):
        while True:
            answer = await rest.post(SIGN, json={"evidence_package": package()})
            if answer.status_code == httpx.codes.OK:
                return
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            await asyncio.sleep(0.1)
