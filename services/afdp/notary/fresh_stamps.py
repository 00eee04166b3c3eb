"""Timestamps that come straight from the signer: one is read whole, those like it by what differs.

Of two responses of one authority and one moment all is the same but the imprint, the serial number, the digest of what
is signed, and the signature. So a response with the bytes of one that was read whole, but for these, says the same; a
batch has one moment. To read it whole takes some fifty times as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from afdp.formats.authorities import TimestampAuthority
from afdp.formats.rfc3161 import Token
from afdp.verify.timestamps import Stamp, read_stamp

_MAX_LENGTHS = 64  # a signature has one of few, and so has a response
_MOMENTS = 4  # a receipt is made while the next batch is stamped already


class FreshStamps:
    """Reads responses; remembers the forms of the last moments, by the response's length."""

    def __init__(self) -> None:
        self._forms: dict[int, deque[_Form]] = {}

    def read(self, response: bytes, data: bytes, authorities: Sequence[TimestampAuthority]) -> Stamp:
        """As `verify.timestamps.read_stamp`: what a response over some data states, its signature not verified."""
        for form in self._forms.get(len(response), ()):
            if form.authorities is authorities and form.fits(response, data):
                return form.stamp
        token, stamp = read_stamp(response, data, authorities)
        if (made := _form(response, token, stamp, authorities)) is not None:
            self._remember(len(response), made)
        return stamp

    def _remember(self, length: int, form: _Form) -> None:
        if length not in self._forms and len(self._forms) >= _MAX_LENGTHS:
            self._forms.clear()
        self._forms.setdefault(length, deque(maxlen=_MOMENTS)).appendleft(form)


@dataclass(frozen=True, slots=True)
class _Form:
    """What a response that was read whole has around its four values, and what it states.

    Attributes:
        fixed: the bytes before, between and after the values, each with its place.
        imprint, serial: where these two stand.
    """

    stamp: Stamp
    authorities: Sequence[TimestampAuthority]
    fixed: tuple[tuple[slice, bytes], ...]
    imprint: slice
    serial: int

    def fits(self, response: bytes, data: bytes) -> bool:
        """Whether a response of this length is over the SHA-256 of the data, and else says the same."""
        return (
            response[self.imprint] == sha256(data).digest()
            and 0 < response[self.serial] < 0x80  # positive, and without a leading zero, as DER has it
            and all(response[place] == part for place, part in self.fixed)
        )


def _form(response: bytes, token: Token, stamp: Stamp, authorities: Sequence[TimestampAuthority]) -> _Form | None:
    """The form of a response; None where its values do not stand in it once each, in their order."""
    serial = token.info.serial
    values = (
        token.info.imprint.digest,
        serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True),  # as DER has it
        token.content_digest,
        token.signature,
    )
    fixed: list[tuple[slice, bytes]] = []
    places: list[int] = []
    end = 0
    for value in values:
        at = response.find(value, end)
        if at < 0 or response.count(value) != 1:
            return None
        fixed.append((slice(end, at), response[end:at]))
        places.append(at)
        end = at + len(value)
    fixed.append((slice(end, len(response)), response[end:]))
    imprint = slice(places[0], places[0] + len(values[0]))
    return _Form(stamp, authorities, tuple(fixed), imprint, places[1])
