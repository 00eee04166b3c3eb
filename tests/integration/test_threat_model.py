"""docs/threat-model.md names files and tests: each is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.container_files import ROOT

TEXT = (ROOT / "docs" / "threat-model.md").read_text()
NAMED = sorted(set(re.findall(r"`(\w[\w.-]*/[\w./-]+|\.ci/run|Dockerfile|compose\.yaml)(?:::(\w+))?`", TEXT)))
ARROWS = re.findall(r"^### (\d+)\. (.+)$", TEXT, re.MULTILINE)


@cache
def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("path", "test"), NAMED, ids=[f"{path}::{test}" if test else path for path, test in NAMED])
def test_what_the_threat_model_names_is_there(path: str, test: str) -> None:
    assert (ROOT / path).exists()
    assert not test or test in functions(ROOT / path)


def test_every_arrow_of_the_diagram_has_its_section_and_every_letter_its_row() -> None:
    drawn = {int(number) for number in re.findall(r"-- (\d+) -->", TEXT)}
    described = [int(number) for number, _ in ARROWS]
    assert described == list(range(1, len(described) + 1))
    assert drawn <= set(described)
    for number, title in ARROWS:
        section = TEXT.split(f"### {number}. {title}\n", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
        letters = re.findall(r"^\| ([STRIDE](?:, [STRIDE])*) \|", section, re.MULTILINE)
        assert sorted(letter for row in letters for letter in row.split(", ")) == sorted("STRIDE"), title


def test_every_row_names_what_shows_it_or_says_that_nothing_is_to_be_shown() -> None:
    rows = re.findall(r"^\| [STRIDE](?:, [STRIDE])* \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    assert len(rows) > 70
    for threat, control, shown, _ in rows:
        if threat not in ("–", "") and not threat.startswith(("as arrow", "a gateway that")):
            assert "`tests/" in shown or not re.search(r"`[\w/]+/", control), (threat, control)
