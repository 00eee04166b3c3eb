"""Lines of CSV (RFC 4180) that a spreadsheet reads as what they say.

Every cell stands in quotes. A text that a spreadsheet would take for a formula, as it begins with `=`, `+`, `-`, `@`, a
tab or a line end, gets an apostrophe before it, which spreadsheets do not show; so does one that begins with an
apostrophe, and so nothing is lost: whoever reads a line takes one apostrophe off again (`csv_text`).
"""

from __future__ import annotations

from collections.abc import Iterable

_MARK = "'"
_MARKED = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
    _MARK,
)  # full-width ones as well


def csv_line(cells: Iterable[str]) -> bytes:
    """One line with its end, UTF-8."""
    return (",".join(map(_quoted, cells)) + "\r\n").encode()


def csv_text(cell: str) -> str:
    """What a cell of such a line says, once its quotes are off."""
    return cell.removeprefix(_MARK)


def _quoted(text: str) -> str:
    if text.startswith(_MARKED):
        text = _MARK + text
    return '"' + text.replace('"', '""') + '"'
