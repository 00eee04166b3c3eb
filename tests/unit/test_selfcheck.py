"""What a service finds before it serves."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import pytest

from afdp.config import ServiceSettings
from afdp.errors import Unavailable
from afdp.selfcheck import Finding, disk_finding, folder_finding, grpc_port_of, port_of, self_check


class EchoSettings(ServiceSettings):
    port: int = 0
    metrics_port: int = 0


async def test_the_document_has_every_finding_and_the_status_says_whether_all_are_good(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async def fine(settings: EchoSettings) -> Sequence[Finding]:
        return [Finding("fine", True, "as it should be")]

    async def away(settings: EchoSettings) -> Sequence[Finding]:
        raise Unavailable("nobody is there")

    assert await self_check(EchoSettings, fine)(EchoSettings(tls="off")) == 0
    assert await self_check(EchoSettings, fine, away)(EchoSettings(tls="off")) == 1

    documents = capfdbinary.readouterr().out.decode().replace("}\n{", "}\0{").split("\0")
    good, bad = (json.loads(each) for each in documents)
    assert good["service"] == "echo"
    assert [each["name"] for each in good["findings"]] == ["settings", "fine"]
    assert bad["findings"][2] == {"name": "away", "good": False, "detail": "nobody is there", "remedy": ""}


async def test_a_look_that_hangs_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("afdp.selfcheck._PATIENCE", 0.05)

    async def hangs(settings: EchoSettings) -> Sequence[Finding]:
        await asyncio.Event().wait()
        return []

    assert await self_check(EchoSettings, hangs)(EchoSettings()) == 1
    found = json.loads(capfdbinary.readouterr().out)["findings"][1]
    assert (found["name"], found["detail"]) == ("hangs", "gave no answer within 0.05 seconds")


async def test_a_port_is_free_its_own_or_somebody_elses(unused_tcp_port: int) -> None:
    settings = EchoSettings(port=unused_tcp_port)
    look = grpc_port_of("afdp.notary.v1.NotaryService")
    [free] = await look(settings)
    assert (free.good, free.detail) == (True, f"127.0.0.1:{unused_tcp_port} is free")

    async def mine(address: str, _settings: EchoSettings) -> bool:
        return address == f"127.0.0.1:{unused_tcp_port}"

    with socket.create_server(("127.0.0.1", unused_tcp_port)):
        [taken] = await look(settings)
        [own] = await port_of(mine)(settings)
    assert not taken.good
    assert "taken by something else" in taken.detail
    assert "AFDP_PORT" in taken.remedy
    assert own.good


async def test_an_address_that_is_not_of_this_machine_is_named() -> None:
    elsewhere = EchoSettings(port=50051).model_copy(update={"host": "192.0.2.1"})  # with TLS, which is not looked at
    [found] = await grpc_port_of("afdp.notary.v1.NotaryService")(elsewhere)

    assert not found.good
    assert "192.0.2.1:50051" in found.detail
    assert "AFDP_HOST" in found.remedy


def test_a_data_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert folder_finding(folder) == Finding(
        "data folder", True, f"{folder} is not there yet; it is made at the first start"
    )
    folder.mkdir(mode=0o700)
    assert folder_finding(folder) == Finding("data folder", True, f"{folder}, mode 700")
    folder.chmod(0o755)
    found = folder_finding(folder)
    assert (found.good, found.remedy) == (False, f"chmod o-rwx {folder}")
    (tmp_path / "file").touch()
    assert not folder_finding(tmp_path / "file").good


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 * 1024**3, 99 * 1024**3, 2**20))

    found = disk_finding(tmp_path / "not" / "there")

    assert not found.good
    assert f"0.0 GiB of 100.0 are free at {tmp_path}" in found.detail
    assert "make room" in found.remedy
