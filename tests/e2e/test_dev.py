"""`afdp dev` as a person uses it: a process in the foreground, stopped with Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import free_offset
from tests.e2e.evidence import package


@asynccontextmanager
async def afdp_dev(folder: Path, offset: int, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The running command and the URL that it prints when it is ready. Ctrl-C on leaving must end it with 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "afdp.cli", "dev", "--data-dir", str(folder), "--port-offset", str(offset), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # As in a shell's background job, where SIGINT is inherited as ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("ready http://127.0.0.1:"), line + (await _errors(process))
        yield process, line.split()[1]
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
        assert await process.stdout.read() == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _errors(process: asyncio.subprocess.Process) -> str:
    return (await process.stderr.read()).decode() if process.stderr else ""


def children(pid: int) -> dict[str, int]:
    """The process IDs of the services below a process, by name."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"-m" in command:
            found[command[command.index(b"-m") + 1].decode()] = int(child)
    return found


async def test_a_second_start_on_the_same_folder_finds_its_data(data_folder: Path) -> None:
    offset = free_offset()
    async with afdp_dev(data_folder / "data", offset) as (_, url), httpx.AsyncClient(base_url=url) as rest:
        signed = (await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()})).json()
    async with afdp_dev(data_folder / "data", offset) as (_, url), httpx.AsyncClient(base_url=url) as rest:
        again = (await rest.get(f"/api/v1/receipts/{signed['receipt']['receipt_id']}")).json()
        more = (await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()})).json()

    assert again["receipt"] == signed["receipt"]
    assert more["receipt"]["log_index"] > signed["receipt"]["log_index"]
    assert more["receipt"]["key_id"] == signed["receipt"]["key_id"]


async def test_its_trust_root_is_signed_once_and_can_be_followed(data_folder: Path) -> None:
    offset, roots = free_offset(), []
    for _ in range(2):
        async with afdp_dev(data_folder / "data", offset) as (_, url), httpx.AsyncClient(base_url=url) as rest:
            async with asyncio.timeout(20):
                while True:
                    if (await rest.get("/trust/timestamp.json")).status_code == 200:
                        break
                    await asyncio.sleep(0.05)
            roots.append((await rest.get("/trust/1.root.json")).content)
            followed = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "afdp.cli", "--url", url, "trust", "update"),
                *(
                    "--trust",
                    data_folder / "trust",
                    "--root",
                    data_folder / "data" / "trust" / "signed" / "1.root.json",
                ),
            )
            assert await followed.wait() == 0

    assert roots[0] == roots[1] == (data_folder / "trust" / "root.json").read_bytes()
    for key in (data_folder / "data" / "trust" / "keys").iterdir():
        assert key.stat().st_mode & 0o077 == 0


async def test_every_child_is_a_process_of_its_own_and_ends_with_the_stack(data_folder: Path) -> None:
    async with afdp_dev(data_folder / "data", free_offset()) as (process, _):
        services = children(process.pid)
    services.pop("afdp.cli", None)  # signs the trust root, and ends by itself
    assert set(services) == {f"afdp.{name}" for name in ("signer", "transparency", "metadata", "notary", "gateway")}
    for pid in services.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_child_that_dies_is_started_again(data_folder: Path) -> None:
    async with afdp_dev(data_folder / "data", free_offset()) as (process, url), httpx.AsyncClient(base_url=url) as rest:
        os.kill(children(process.pid)["afdp.notary"], signal.SIGKILL)
        async with asyncio.timeout(30):
            while True:
                answer = await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()})
                if answer.status_code == 200:
                    break
                assert answer.status_code == 503
                await asyncio.sleep(0.1)


async def test_two_stacks_do_not_share_a_folder(data_folder: Path) -> None:
    async with afdp_dev(data_folder / "data", free_offset()):
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "afdp.cli", "dev", "--data-dir", str(data_folder / "data"), "--port-offset", str(free_offset())),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, errors = await second.communicate()

    assert second.returncode == 1
    assert b"is in use by another process" in errors


async def test_a_port_that_is_taken_is_named(data_folder: Path) -> None:
    offset = free_offset()
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 50052 + offset)
    async with server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "afdp.cli", "dev", "--data-dir", str(data_folder / "data"), "--port-offset", str(offset)),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            _, errors = await process.communicate()

    assert process.returncode == 1
    assert f"port {50052 + offset} for signer is not free".encode() in errors


async def test_vault_holds_the_keys_and_they_survive(data_folder: Path) -> None:
    offset = free_offset()
    keys = []
    for _ in range(2):
        async with (
            afdp_dev(data_folder / "data", offset, "--vault") as (_, url),
            httpx.AsyncClient(base_url=url) as rest,
        ):
            signed = (await rest.post("/api/v1/evidence/sign", json={"evidence_package": package()})).json()
            keys.append((signed["receipt"]["key_id"], signed["receipt"]["public_key_b64"]))

    assert keys[0][0] == "afdp-notary-key:1"
    assert keys[0] == keys[1]
    files = {path.name for path in (data_folder / "data" / "signer" / "keys").glob("*.pem")}
    assert files == {"afdp-file-timestamp-key.1.pem", "afdp-file-trust-key.1.pem"}
