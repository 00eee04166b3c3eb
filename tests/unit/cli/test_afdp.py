from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from afdp.cli.__main__ import cli


def afdp(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "afdp.cli", *arguments], capture_output=True, text=True, check=False)


def test_the_version_is_the_distributions() -> None:
    assert afdp("--version").stdout == f"afdp {version('afdp-notary')}\n"


def test_help_names_every_command_without_loading_any() -> None:
    result = CliRunner().invoke(cli, ["--help"])

    assert result.exit_code == 0
    for command in ("sign", "verify", "timestamp", "trust", "keys", "log", "dev", "doctor", "config"):
        assert f"  {command} " in result.stdout


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["verify"], ["config", "show", "printer"], ["--url", "x", "log"]]
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, arguments).exit_code == 2


def test_config_show_prints_what_the_service_itself_would_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_PORT", "50999")

    run = afdp("config", "show", "signer")

    assert run.returncode == 0
    assert json.loads(run.stdout)["port"] == 50999


def test_config_show_passes_on_why_a_service_would_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFDP_PORT", "many")

    run = afdp("config", "show", "signer")

    assert run.returncode == 2
    assert "port" in run.stderr.lower()
