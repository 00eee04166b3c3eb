"""Standard base64 and lower-case hex, read so that each value has one spelling only."""

from __future__ import annotations

import binascii


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
    last = len(data) % 3  # only in the last group can bits be unused; what is there too much is padding
    if len(text) != (len(data) + 2) // 3 * 4 or (last and b64(data[-last:]) != text[-4:]):
        raise ValueError("must be standard base64 with padding")
    return data


def from_hex(text: str) -> bytes:
    """The bytes of lower-case hex digits.

    Raises:
        ValueError: any other spelling.
    """
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise ValueError("must be lower-case hex digits, two per byte") from error
    if data.hex() != text:  # capitals, or spaces between
        raise ValueError("must be lower-case hex digits, two per byte")
    return data
