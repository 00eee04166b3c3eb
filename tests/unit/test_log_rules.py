from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.log_rules import RULES

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("number", RULES)
def test_each_rule_of_the_log_has_tests_that_name_it(number: int) -> None:
    marked = re.compile(rf"^@rule\({number}\)\n(?:@.*\n)*(?:async )?def test_", re.MULTILINE)
    sources = [file.read_text() for file in TESTS.rglob("test_*.py")]

    assert any(marked.search(source) for source in sources), RULES[number]
