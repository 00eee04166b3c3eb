"""Lines of CSV: read back they say what was given, and a spreadsheet computes nothing."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afdp.formats.csv_lines import csv_line, csv_text

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def read(line: bytes) -> list[str]:
    [cells] = csv.reader(io.StringIO(line.decode(), newline=""), strict=True)
    return cells


@given(st.lists(TEXTS, min_size=1))
def test_whatever_cells_say_is_read_back(cells: list[str]) -> None:
    line = csv_line(cells)

    assert line.endswith(b"\r\n")
    assert [csv_text(cell) for cell in read(line)] == cells


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_begins_as_a_formula(sign: str) -> None:
    [cell] = read(csv_line([f"{sign}cmd|' /C calc'!A0"]))

    assert cell == f"'{sign}cmd|' /C calc'!A0"
    assert read(csv_line([f"a{sign}1"])) == [f"a{sign}1"]


def test_an_apostrophe_of_the_text_itself_is_kept() -> None:
    assert csv_text(read(csv_line(["'quoted'"]))[0]) == "'quoted'"
