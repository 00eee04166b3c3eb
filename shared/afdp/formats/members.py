"""Reading a JSON object whose members are all known: each is asked for by name and type, and what is left is refused.

>>> members = Members({"name": "a", "size": "7"})
>>> members.string("name"), members.decimal("size")
('a', 7)
>>> members.end()
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.encoding import from_b64, from_hex
from afdp.formats.timestamps import parse_timestamp

MAX_UINT64 = 2**64 - 1
_MISSING = object()


class Members:
    """One object and where it stands; every method raises InvalidArgument with the path of the member at fault."""

    __slots__ = ("_left", "_path")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise InvalidArgument.field(path or "body", "must be an object")
        self._left: dict[str, Any] = dict(value)
        self._path = path

    def path(self, name: str) -> str:
        """The member's path, such as `verificationMaterial.publicKey.hint`."""
        return f"{self._path}.{name}" if self._path else name

    def refuse(self, name: str, message: str) -> NoReturn:
        """Raises for this member."""
        raise InvalidArgument.field(self.path(name), message)

    def has(self, name: str) -> bool:
        """Whether the member is there, not yet taken and not null."""
        return self._left.get(name) is not None

    def take(self, name: str) -> object:
        """Any value; a missing member is refused."""
        try:
            return self._left.pop(name)
        except KeyError:
            self.refuse(name, "is missing")

    def skip_null(self, name: str) -> None:
        """Takes a member that may be missing or null."""
        if self._left.pop(name, None) is not None:
            self.refuse(name, "must be null")

    def string(self, name: str, *, empty: bool = False) -> str:
        """A string, by default not an empty one."""
        value = self._left.pop(name, _MISSING)
        if type(value) is str and value:
            return value
        if value is _MISSING:
            self.refuse(name, "is missing")
        if not isinstance(value, str):
            self.refuse(name, "must be a string")
        if not value and not empty:
            self.refuse(name, "must not be empty")
        return value

    def one_of(self, name: str, words: tuple[str, ...]) -> str:
        """One of these strings."""
        value = self.string(name)
        if value not in words:
            self.refuse(name, f"must be one of {', '.join(words)}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value

    def integer(self, name: str) -> int:
        """A JSON number without a fraction, 0 or above."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.refuse(name, "must be a whole number, 0 or above")
        return value

    def decimal(self, name: str) -> int:
        """An unsigned 64-bit integer as protobuf's JSON writes it: a string of digits without leading zeros."""
        value = self.take(name)
        if not isinstance(value, str) or not (value.isascii() and value.isdigit()):
            self.refuse(name, "must be a string of decimal digits")
        if len(value) > 20 or (number := int(value)) > MAX_UINT64 or str(number) != value:
            self.refuse(name, "must be an unsigned 64-bit integer without leading zeros")
        return number

    def base64(self, name: str, *, size: int | None = None) -> bytes:
        """Standard base64 of at least one byte, or of exactly `size` bytes."""
        return _bytes(self.take(name), self.path(name), size)

    def base64_text(self, name: str) -> str:
        """Standard base64 of at least one byte, as it is written."""
        text = self.string(name)
        _bytes(text, self.path(name), None)
        return text

    def base64_items(self, name: str, *, size: int) -> tuple[bytes, ...]:
        """An array of standard base64, each of exactly `size` bytes."""
        return tuple(_bytes(item, self.path(f"{name}[{at}]"), size) for at, item in enumerate(self.array(name)))

    def sha256_hex(self, name: str, *, empty: bool = False) -> str:
        """64 lower-case hex digits; with `empty` there may be none."""
        text = self.string(name, empty=empty)
        if not text:
            return text
        try:
            if len(from_hex(text)) != 32:
                raise ValueError("must be 64 lower-case hex digits")
        except ValueError as error:
            raise InvalidArgument.field(self.path(name), "must be 64 lower-case hex digits") from error
        return text

    def time(self, name: str) -> datetime:
        """A point in time (RFC 3339)."""
        try:
            return parse_timestamp(self.string(name))
        except ValueError as error:
            raise InvalidArgument.field(self.path(name), str(error)) from error

    def optional_time(self, name: str) -> datetime | None:
        """A point in time, or None where it is missing or null."""
        if self.has(name):
            return self.time(name)
        self.skip_null(name)
        return None

    def array(self, name: str) -> list[object]:
        """An array of anything."""
        value = self.take(name)
        if not isinstance(value, list):
            self.refuse(name, "must be an array")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """An array of non-empty strings."""
        items = self.array(name)
        for index, item in enumerate(items):
            if not isinstance(item, str) or not item:
                self.refuse(f"{name}[{index}]", "must be a non-empty string")
        return tuple(str(item) for item in items)

    def objects(self, name: str) -> list[Members]:
        """An array of objects."""
        return [Members(item, self.path(f"{name}[{index}]")) for index, item in enumerate(self.array(name))]

    def object(self, name: str) -> Members:
        """An object."""
        return Members(self.take(name), self.path(name))

    def end(self) -> None:
        """Refuses every member that was not asked for."""
        if self._left:
            unknown = [FieldViolation(self.path(name), "is unknown") for name in self._left]
            raise InvalidArgument("the JSON is not valid", fields=unknown)


def _bytes(value: object, path: str, size: int | None) -> bytes:
    if not isinstance(value, str) or not value:
        raise InvalidArgument.field(path, "must be a non-empty string of base64")
    try:
        data = from_b64(value)
    except ValueError as error:
        raise InvalidArgument.field(path, str(error)) from error
    if size is not None and len(data) != size:
        raise InvalidArgument.field(path, f"must be base64 of {size} bytes, not {len(data)}")
    return data
