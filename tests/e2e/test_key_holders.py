"""A receipt of the whole stack, by whatever holds the keys, verified by everything: ours and what we did not write."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from afdp.embedded.stack import StackOptions, running_stack
from afdp.formats.receipt import Receipt
from afdp.verify.receipts import verify_receipt
from tests.conftest import open_folder
from tests.e2e.answers import get, sign
from tests.e2e.conftest import fetch_trust, free_offset
from tests.foreign_verifiers import Verifiers
from tests.local_token import LocalToken
from tests.tampering import OTHER_TIME

MODEL = b"the weights of a model"
OWN_P384_KEY = [{"name": "own-key", "tenants": ["default"], "algorithm": "P-384"}]


@dataclass(frozen=True)
class Made:
    """A receipt as it came, and the trust root and artifact beside it in a folder."""

    receipt: dict[str, Any]
    folder: Path

    @property
    def key(self) -> str:
        """What signed it."""
        key_id: str = self.receipt["key_id"]
        return key_id


async def made_with(folder: Path, files: Path, *, vault: bool = False, **signer: str) -> Made:
    """Starts a stack, notarises a file, exports the trust root."""
    options = StackOptions(folder / "data", free_offset(), vault=vault, settings={"signer": signer})
    async with running_stack(options) as stack:
        async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest:
            artifact = {"name": "model.bin", "hash_sha256": sha256(MODEL).hexdigest()}
            signed = (await sign(rest, artifacts=[artifact]))["receipt"]
            assert (await get(rest, f"/api/v1/receipts/{signed['receipt_id']}"))["receipt"] == signed
        (files / "model.bin").write_bytes(MODEL)
        export = [sys.executable, "-m", "afdp.cli", "--url", stack.url, "trust", "export", "-o", str(files / "trust")]
        environment = {**os.environ, "HOME": str(files)}
        done = await asyncio.to_thread(
            subprocess.run, export, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    return Made(signed, files)


async def create_keys(settings: Mapping[str, str]) -> None:
    """As an operator makes the keys in a token."""
    command = (sys.executable, "-m", "afdp.signer", "create-keys")
    environment = {"PATH": os.environ["PATH"], "AFDP_DATA_DIR": "/nonexistent", **settings}
    made = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.DEVNULL)
    assert await made.wait() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["files", "vault", "token"])
async def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], Path]
) -> AsyncIterator[Made]:
    """A receipt by each holder of keys, the time-stamping key included."""
    with open_folder() as folder:
        files = tmp_path_factory.mktemp("receipt")
        if request.param == "token":
            settings = LocalToken.make(folder / "softhsm", tool("softhsm2-util")).signer_settings
            await create_keys(settings)
        else:
            settings = {}
        yield await made_with(folder, files, vault=request.param == "vault", **settings)


def test_everything_verifies_a_receipt_of_each_holder_of_keys(made: Made, tool: Callable[[str], Path]) -> None:
    verifiers = Verifiers(tool, made.folder)
    verifiers.write(made.receipt)

    assert verifiers.afdp("--tenant", "default")
    assert verifiers.cosign(key=made.key)
    assert verifiers.cosign_with_timestamps(key=made.key)
    assert verifiers.sigstore_js(key=made.key)
    assert verifiers.openssl()


def test_everything_refuses_it_with_another_time(made: Made, tool: Callable[[str], Path]) -> None:
    verifiers = Verifiers(tool, made.folder)
    changed = json.loads(json.dumps(made.receipt))
    OTHER_TIME.change(changed)
    verifiers.write(changed)

    assert not verifiers.afdp()
    assert not verifiers.cosign_with_timestamps(key=made.key)
    assert not verifiers.sigstore_js(key=made.key)
    assert not verifiers.openssl()


async def test_a_tenant_with_a_p384_key_of_its_own(tool: Callable[[str], Path], tmp_path: Path) -> None:
    with open_folder() as folder:
        made = await made_with(folder, tmp_path, AFDP_TENANT_KEYS=json.dumps(OWN_P384_KEY))
    verifiers = Verifiers(tool, made.folder)
    verifiers.write(made.receipt)

    assert made.key == "own-key:1"
    assert verifiers.afdp("--tenant", "default")
    assert not verifiers.afdp("--tenant", "another")
    assert verifiers.cosign("--signature-digest-algorithm", "sha384", "model.bin", key=made.key)
    assert verifiers.cosign_with_timestamps("--signature-digest-algorithm", "sha384", key=made.key)
    assert verifiers.openssl()


@asynccontextmanager
async def serving(folder: Path, **signer: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a stack with its data in a folder."""
    options = StackOptions(folder / "data", free_offset(), settings={"signer": signer})
    async with (
        running_stack(options) as stack,
        httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=30) as rest,
    ):
        yield rest


async def test_keys_may_move_into_a_token_and_what_was_signed_with_files_still_verifies(
    tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """The log's key stays where it is: it is part of the log's identity. Everything else moves."""
    with open_folder() as folder:
        token = LocalToken.make(folder / "softhsm", tool("softhsm2-util")).signer_settings
        stays = {"AFDP_LOG_KEYS": "files", "AFDP_DATA_KEYS": "files"}
        async with serving(folder) as rest:
            before = (await sign(rest))["receipt"]
        await create_keys(token | stays)
        async with serving(folder, **(token | stays)) as rest:
            after = (await sign(rest))["receipt"]
            read = (await get(rest, f"/api/v1/receipts/{before['receipt_id']}"))["receipt"]
            keys = {each["key_id"]: each for each in (await get(rest, "/api/v1/keys"))["keys"]}
            trust = await fetch_trust(rest)

    assert (before["key_id"], after["key_id"]) == ("afdp-file-key:1", "afdp-hsm-key:1")
    assert read["bundle"] == before["bundle"]
    for receipt in (before, read, after):
        result = verify_receipt(Receipt.from_object(receipt), trust)
        assert result.verified, result.failures()
    assert keys["afdp-file-key:1"]["valid_until"]
    assert not keys["afdp-file-key:1"]["current"]
    assert keys["afdp-hsm-key:1"]["current"]
    assert not keys["afdp-file-timestamp-key:1"]["current"]
