"""`afdp doctor`, against a notary behind its real gateway, and without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli
from afdp.errors import Unavailable
from afdp.formats.trust import trust_files
from afdp.messages import notary as pb
from tests.integration.client.conftest import Running, ScriptedNotary
from tests.local_notary import LocalNotary

Afdp = Callable[..., Awaitable[Result]]

SEALED = pb.StatusPart("signer", "vault", False, "is sealed", "unseal it")
FINE = pb.StatusPart("notary", "service", True, "up for a day")


@pytest.fixture
def afdp(running: Running, notary: ScriptedNotary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Afdp:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFDP_URL", running.url)
    notary.lay_out("HealthCheck", pb.HealthResponse("healthy", "0.1.0", 17))
    notary.lay_out("GetStatus", pb.GetStatusResponse([FINE]))
    files = trust_files(LocalNotary().trust)
    notary.lay_out("GetTrustRoot", pb.GetTrustRootResponse([pb.TrustFile(*each) for each in files.items()]))

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, ["doctor", *arguments], prog_name="afdp")

    return run


def found(result: Result) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["area"], each["name"]): each for each in json.loads(result.stdout)["findings"]}


async def test_each_part_is_shown_with_what_to_do(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("GetStatus", pb.GetStatusResponse([FINE, SEALED]))

    result = await afdp()

    assert result.exit_code == 1
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["✗", "vault", "is", "sealed"] in lines
    assert ["→", "unseal", "it"] in lines
    assert ["✓", "service", "up", "for", "a", "day"] in lines
    assert "WRONG" in result.stdout.splitlines()[-1]


async def test_the_gateway_its_clock_the_trust_root_and_the_settings_are_looked_at(
    afdp: Afdp, notary: ScriptedNotary
) -> None:
    findings = found(await afdp("--json"))

    assert findings["gateway", "service"]["good"]
    assert findings["gateway", "clock"]["good"]
    assert findings["stack", "ready"]["detail"] == "reads and writes"
    assert findings["stack", "trust root"]["detail"] == "1 key, 1 log"
    assert findings["this machine", "settings"]["good"]
    assert not findings["transparency", "log"]["good"]  # there is none behind this gateway
    assert findings["transparency", "log"]["remedy"]


async def test_a_stack_that_cannot_write_says_so(afdp: Afdp, notary: ScriptedNotary) -> None:
    notary.lay_out("HealthCheck", Unavailable("signer cannot be reached"))
    notary.lay_out("GetStatus", Unavailable("the signer is away"))

    findings = found(await afdp("--json"))

    assert findings["stack", "ready"]["detail"] == "signer cannot be reached"
    assert not findings["notary", "status"]["good"]


async def test_where_nobody_answers_it_says_what_to_do_and_exits_3(afdp: Afdp, unused_port: int) -> None:
    result = await afdp("--url", f"http://127.0.0.1:{unused_port}", "--json")

    assert result.exit_code == 3
    findings = found(result)
    assert not findings["gateway", "service"]["good"]
    assert "AFDP_URL" in findings["gateway", "service"]["remedy"]
    assert findings["this machine", "settings"]["good"]


async def test_a_setting_that_no_service_has_is_named_once_and_one_that_some_have_is_none(
    afdp: Afdp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFDP_KEYS", "files")  # of the signer
    assert found(await afdp("--json"))["this machine", "settings"]["good"]

    monkeypatch.setenv("AFDP_KEYZ", "files")
    monkeypatch.setenv("AFDP_LOG_LEVEL", "LOUD")
    result = await afdp()
    assert result.stdout.count("AFDP_KEYZ: no such setting") == 1
    assert result.stdout.count("AFDP_LOG_LEVEL") == 1
    assert "afdp config show" in result.stdout


async def test_a_service_that_is_to_start_here_is_checked_by_its_settings(
    afdp: Afdp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("AFDP_DATA_DIR", str(tmp_path / "open"))

    result = await afdp("--service", "signer", "--json")

    assert result.exit_code == 1
    assert found(result)["signer", "data folder"]["remedy"] == f"chmod o-rwx {tmp_path / 'open'}"


async def test_a_folder_that_is_not_there_yet_is_no_fault_and_is_not_made(afdp: Afdp, tmp_path: Path) -> None:
    findings = found(await afdp("--data-dir", "new", "--json"))

    assert findings["folder", "data"]["good"]
    assert "made at the first start" in findings["signer", "files"]["detail"]
    assert not (tmp_path / "new").exists()


async def test_one_question_at_a_time(afdp: Afdp) -> None:
    assert (await afdp("--data-dir", "x", "--service", "signer")).exit_code == 2
