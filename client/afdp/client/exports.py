"""Exports as they come: whole lines of them, and where to go on when the connection broke."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import orjson

from afdp.client.calls import Form
from afdp.client.errors import UnexpectedAnswer

_LONGEST_LINE = 64 * 1024 * 1024  # no record is nearly as large


class Received:
    """What has come of an export: chunks go in, whole lines come out.

    Attributes:
        after: the receipt of the last whole line, or what the export began after.
    """

    def __init__(self, form: Form, after: str = "") -> None:
        self._form = form
        self._begun = after
        self._last = b""
        self._part = bytearray()
        self._quotes = 0  # in the part: where they are odd, a line end in it belongs to a cell
        self._headed = form != "csv" or bool(after)  # whether the head is behind us
        self._passed_over = False

    @property
    def after(self) -> str:
        """Where an export that ended early goes on."""
        return _receipt_of(self._last, self._form) if self._last else self._begun

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that end in a chunk, with their line ends."""
        for piece in _pieces(chunk):
            self._part += piece
            self._quotes += piece.count(b'"')
            if piece.endswith(b"\n") and (self._form == "ndjson" or self._quotes % 2 == 0):
                line, self._quotes = bytes(self._part), 0
                self._part.clear()
                yield from self._whole(line)
            elif len(self._part) > _LONGEST_LINE:
                raise UnexpectedAnswer("the notary gave a line that is not one of an export")

    def _whole(self, line: bytes) -> Iterator[bytes]:
        if self._headed:
            self._last = line
            yield line
        else:
            self._headed = True
            if not self._passed_over:
                yield line

    def begin_again(self) -> None:
        """Forgets what came of a line that did not come whole, for the export that goes on."""
        self._part.clear()
        self._quotes = 0
        if self._form == "csv" and self._headed and not self.after:
            self._headed, self._passed_over = False, True  # it comes with its head once more

    def end(self) -> None:
        """Says that there is no more. Raises UnexpectedAnswer in the midst of a line."""
        if self._part:
            raise UnexpectedAnswer("the notary gave an export that ends in the midst of a line")


def _pieces(chunk: bytes) -> Iterator[bytes]:
    start = 0
    while (end := chunk.find(b"\n", start)) >= 0:
        yield chunk[start : end + 1]
        start = end + 1
    if start < len(chunk):
        yield chunk[start:]


def _receipt_of(line: bytes, form: Form) -> str:
    try:
        if form == "ndjson":
            return str(orjson.loads(line)["receipt_id"])
        return next(csv.reader([line.decode()]))[0]
    except (ValueError, KeyError, TypeError, IndexError, csv.Error, StopIteration):
        raise UnexpectedAnswer("the notary gave a line that is not one of an export") from None
