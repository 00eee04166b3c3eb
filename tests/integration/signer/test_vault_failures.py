"""Vault sealed, slow, silent, dead, cut off in mid-batch: each a clear error, fast, and over when Vault is back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from statistics import median

import pytest
from prometheus_client import REGISTRY

from afdp.embedded.openbao import OpenBao, running_openbao
from afdp.errors import Unavailable
from afdp.signer.config import SignerSettings
from afdp.signer.keys import P256, KeySpec, Purpose, Signature
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import Vault, open_vault
from afdp.signer.verification import require_ecdsa
from tests.vault_servers import DevServer, raft_pair, running_proxy

DIGEST = sha256(b"statement").digest()
EVIDENCE = KeySpec("afdp-notary-key", Purpose.EVIDENCE, P256)
AT_ONCE = 0.05  # seconds; microseconds, on a machine that has nothing else to do


@asynccontextmanager
async def keyring_at(server: DevServer, folder: Path, **settings: object) -> AsyncIterator[tuple[VaultKeyring, Vault]]:
    """A keyring of the evidence key, and the Vault that it asks."""
    async with open_vault(SignerSettings(**server.settings(**settings))) as vault:
        yield VaultKeyring(vault, KeyMemory(folder / "vault-keys.json"), [EVIDENCE]), vault


async def until_it_signs(keyring: VaultKeyring) -> float:
    """Asks until there is a signature; gives how long that took, in seconds."""
    began = time.monotonic()
    async with asyncio.timeout(15):
        while True:
            try:
                [signature] = await keyring.sign(EVIDENCE.name, [DIGEST])
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                assert isinstance(signature, Signature)
                require_ecdsa(signature.key.spki, signature.value, DIGEST)
                return time.monotonic() - began


async def refusal(keyring: VaultKeyring) -> tuple[Unavailable, float]:
    """The error of a call, and how long it took, in seconds."""
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await keyring.sign(EVIDENCE.name, [DIGEST])
    return caught.value, time.monotonic() - began


def metric(name: str, **labels: str) -> float:
    """A metric's value now."""
    return REGISTRY.get_sample_value(f"afdp_signer_vault_{name}", {"identity": "signer", **labels}) or 0.0


async def test_a_sealed_vault_is_said_to_be_sealed_and_comes_back_by_itself(data_folder: Path, tmp_path: Path) -> None:
    async with running_openbao(data_folder) as bao, open_vault(SignerSettings(**settings_of(bao))) as vault:
        keyring = VaultKeyring(vault, KeyMemory(tmp_path / "vault-keys.json"), [EVIDENCE])
        await keyring.check()
        async with bao.operator() as operator:
            (await operator.put("sys/seal")).raise_for_status()

        error, _ = await refusal(keyring)
        assert "sealed" in error.message
        assert error.retry_after
        with pytest.raises(Unavailable, match="sealed"):
            await keyring.check()
        [part] = await keyring.status()
        assert not part.good
        assert "sealed" in part.detail

        await bao.unseal()
        await until_it_signs(keyring)
        await keyring.check()


async def test_a_vault_that_restarts_is_found_again_by_itself(data_folder: Path, tmp_path: Path) -> None:
    async with running_openbao(data_folder) as bao:
        settings, port = settings_of(bao), bao.port
        async with open_vault(SignerSettings(**settings)) as vault:
            keyring = VaultKeyring(vault, KeyMemory(tmp_path / "vault-keys.json"), [EVIDENCE])
            await until_it_signs(keyring)
            bao.kill()
            await bao.wait()
            error, seconds = await refusal(keyring)
            assert error.message in ("Vault cannot be reached", "Vault ended the connection")
            assert seconds < 3.0
            again = await OpenBao.start(data_folder, port)
            try:
                await until_it_signs(keyring)
            finally:
                await again.stop()


def settings_of(bao: OpenBao) -> dict[str, str]:
    """The signer's settings for the embedded server."""
    return {name.removeprefix("AFDP_").lower(): value for name, value in bao.signer_settings.items()}


async def test_a_vault_that_takes_five_seconds_costs_one_call_its_timeout_and_no_other(
    own_vault: DevServer, tmp_path: Path
) -> None:
    async with (
        running_proxy(own_vault.addr) as proxy,
        keyring_at(own_vault, tmp_path, vault_addr=proxy.addr, vault_timeout_seconds=1.0) as (keyring, vault),
    ):
        await until_it_signs(keyring)
        proxy.delay = 5.0

        error, seconds = await refusal(keyring)
        assert error.message == "Vault did not answer in time"
        assert 0.9 < seconds < 4.0
        assert metric("breaker_open") == 1
        refused = [await refusal(keyring) for _ in range(20)]
        assert median(seconds for _, seconds in refused) < AT_ONCE
        assert {error.message for error, _ in refused} == {"Vault did not answer in time"}
        assert all(error.retry_after for error, _ in refused)
        with pytest.raises(Unavailable):
            await keyring.check()

        proxy.delay = 0.0
        await until_it_signs(keyring)
        assert metric("breaker_open") == 0
        assert not vault.access.calls.breaker.is_open


async def test_while_vault_is_silent_one_probe_at_a_time_looks_after_it(own_vault: DevServer, tmp_path: Path) -> None:
    async with (
        running_proxy(own_vault.addr) as proxy,
        keyring_at(own_vault, tmp_path, vault_addr=proxy.addr, vault_timeout_seconds=0.3) as (keyring, _),
    ):
        await until_it_signs(keyring)
        proxy.delay = 60.0
        await asyncio.gather(*(refusal(keyring) for _ in range(8)))
        before = proxy.requests
        async with asyncio.timeout(10):
            while proxy.requests < before + 2:
                results = [await refusal(keyring) for _ in range(50)]
                assert median(seconds for _, seconds in results) < AT_ONCE
                await asyncio.sleep(0.01)
        assert proxy.requests == before + 2


async def test_a_vault_that_is_not_there_is_unavailable_at_once(
    own_vault: DevServer, tmp_path: Path, unused_tcp_port: int
) -> None:
    addr = f"http://127.0.0.1:{unused_tcp_port}"
    async with keyring_at(own_vault, tmp_path, vault_addr=addr) as (keyring, _):
        for _ in range(5):
            error, seconds = await refusal(keyring)
            assert error.message == "Vault cannot be reached"
            assert seconds < 2.0
        assert median([(await refusal(keyring))[1] for _ in range(20)]) < AT_ONCE


async def test_a_host_that_swallows_packets_costs_the_connection_timeout(own_vault: DevServer, tmp_path: Path) -> None:
    with silent_port() as port:
        addr = f"http://127.0.0.1:{port}"
        async with keyring_at(
            own_vault, tmp_path, vault_addr=addr, vault_connect_timeout_seconds=0.3, vault_timeout_seconds=20.0
        ) as (keyring, _):
            error, seconds = await refusal(keyring)
            assert error.message == "Vault did not answer in time"
            assert seconds < 4.0
            assert median([(await refusal(keyring))[1] for _ in range(20)]) < AT_ONCE


@contextmanager
def silent_port() -> Iterator[int]:
    """A listener whose queue is full answers no SYN, as a host behind a firewall does."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_a_connection_cut_in_mid_batch_is_mended_without_a_failed_call(
    own_vault: DevServer, tmp_path: Path
) -> None:
    async with (
        running_proxy(own_vault.addr) as proxy,
        keyring_at(own_vault, tmp_path, vault_addr=proxy.addr) as (keyring, _),
    ):
        await until_it_signs(keyring)
        proxy.cuts = 1
        digests = [sha256(bytes([number])).digest() for number in range(64)]
        answers = await keyring.sign(EVIDENCE.name, digests)

        assert proxy.cuts == 0
        for digest, answer in zip(digests, answers, strict=True):
            assert isinstance(answer, Signature)
            require_ecdsa(answer.key.spki, answer.value, digest)


async def test_connections_that_are_cut_again_and_again_are_an_error_and_heal(
    own_vault: DevServer, tmp_path: Path
) -> None:
    async with (
        running_proxy(own_vault.addr) as proxy,
        keyring_at(own_vault, tmp_path, vault_addr=proxy.addr) as (keyring, _),
    ):
        await until_it_signs(keyring)
        proxy.cuts = 1_000_000
        error, seconds = await refusal(keyring)
        assert error.message == "Vault ended the connection"
        assert error.retry_after
        assert seconds < 1.0

        proxy.cuts = 0
        await until_it_signs(keyring)


async def test_a_rotation_whose_answer_was_lost_is_not_made_twice(own_vault: DevServer, tmp_path: Path) -> None:
    async with (
        running_proxy(own_vault.addr) as proxy,
        keyring_at(own_vault, tmp_path, vault_addr=proxy.addr, **admin_login(own_vault)) as (keyring, vault),
    ):
        await keyring.check()

        def rotate_and_lose_the_answer(client: object) -> None:
            proxy.cuts = 1
            client.secrets.transit.rotate_key(EVIDENCE.name, mount_point=vault.mount)  # type: ignore[attr-defined]

        with pytest.raises(Unavailable, match="ended the connection"):
            await vault.call_as_admin(rotate_and_lose_the_answer)
        assert len(await keyring.versions(EVIDENCE.name)) == 2


async def test_something_that_is_not_vault_is_said_to_be_that(own_vault: DevServer, tmp_path: Path) -> None:
    async def web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(web_server, "127.0.0.1", 0)
    addr = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with keyring_at(own_vault, tmp_path, vault_addr=addr) as (keyring, _):
            error, _ = await refusal(keyring)
            assert "does not speak as Vault" in error.message
    finally:
        server.close()


async def test_a_standby_serves_the_signer_and_says_what_it_cannot_do_without_an_active_node(
    data_folder: Path, tmp_path: Path
) -> None:
    async with raft_pair(data_folder) as (active, standby):
        assert standby.client().sys.read_health_status().status_code == 429  # a standby
        settings = {"vault_addr": standby.addr, "vault_timeout_seconds": 2.0, **admin_login(standby)}
        async with keyring_at(standby, tmp_path, **settings) as (keyring, _):
            await until_it_signs(keyring)
            assert (await keyring.rotate(EVIDENCE.name)).key_id == "afdp-notary-key:2"

            active.process.kill()
            await active.process.wait()
            with pytest.raises(Unavailable, match="standby") as caught:
                await keyring.rotate(EVIDENCE.name)
            assert caught.value.retry_after
            [signature] = await keyring.sign(EVIDENCE.name, [DIGEST])  # OpenBao's standby signs by itself
            assert isinstance(signature, Signature)


def admin_login(server: DevServer) -> dict[str, object]:
    """The settings with which the key admin logs in."""
    folder = server.logins.key_admin
    assert folder
    files = {"vault_admin_role_id_file": folder / "role-id", "vault_admin_secret_id_file": folder / "secret-id"}
    return {"vault_admin_auth": "approle", **files}
