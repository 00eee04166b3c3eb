"""The rules for Prometheus: judged by its own promtool, on metrics that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "monitoring" / "alerts.yaml"
TESTS = Path(__file__).with_name("alerts.test.yaml")


def test_each_rule_fires_on_what_it_is_for_and_on_nothing_else(tool: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    shutil.copy(TESTS, tmp_path)
    for command in (["check", "rules", RULES.name], ["test", "rules", TESTS.name]):
        done = subprocess.run([tool("promtool"), *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_test() -> None:
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())

    assert len(alerts) > 10
    assert [each for each in alerts if f'alertname="{each}"' not in TESTS.read_text()] == []


def test_every_metric_of_a_rule_is_one_that_a_service_or_the_monitor_has() -> None:
    sources = "".join(
        file.read_text() for folder in ("services", "shared", "client") for file in (ROOT / folder).rglob("*.py")
    )
    names = set(re.findall(r"\bafdp_[a-z_]+", RULES.read_text()))

    # A counter is declared without the ending that Prometheus gives it.
    assert [name for name in sorted(names) if f'"{name.removesuffix("_total")}"' not in sources] == []
