"""Standard base64 and lower-case hex, read so that each value has one spelling only."""

from __future__ import annotations

import binascii
import re

_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_b64(text: str) -> bytes:
    """The bytes of standard base64, padded, without line breaks and with unused bits zero.

    Raises:
        ValueError: any other spelling.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one; so is what a text that is not ASCII raises
        raise ValueError("must be standard base64 with padding") from error
    if b64(data) != text:
        raise ValueError("must be standard base64 with padding")
    return data


def from_hex(text: str) -> bytes:
    """The bytes of lower-case hex digits.

    Raises:
        ValueError: any other spelling.
    """
    if not _HEX.fullmatch(text):
        raise ValueError("must be lower-case hex digits, two per byte")
    return bytes.fromhex(text)
