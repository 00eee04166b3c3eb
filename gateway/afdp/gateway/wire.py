"""The protobuf wire format, as much of it as writing needs.

Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from struct import Struct

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""

double = Struct("<d").pack
float32 = Struct("<f").pack
fixed32 = Struct("<I").pack
fixed64 = Struct("<Q").pack
sfixed32 = Struct("<i").pack
sfixed64 = Struct("<q").pack


def varint(value: int) -> bytes:
    """An unsigned integer, or a signed one in two's complement of 64 bits."""
    return _VARINTS[value] if 0 <= value < _SMALL else _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def zigzag(value: int) -> bytes:
    """A signed integer (`sint32`, `sint64`)."""
    return varint((value << 1) ^ (value >> 63))


def tag(number: int, wire_type: int) -> bytes:
    """What stands before a field's value."""
    return varint(number << 3 | wire_type)


def length_delimited(payload: bytes) -> bytes:
    """A string, bytes, message or packed list, after its length."""
    return varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


_SMALL = 4096
_VARINTS = tuple(_varint(value) for value in range(_SMALL))
