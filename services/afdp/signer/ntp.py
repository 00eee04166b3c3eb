"""What the operating system knows of its clock: adjtimex(2) of Linux, read only."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5


@dataclass(frozen=True, slots=True)
class Synchronisation:
    """The state of the system's clock.

    Attributes:
        synchronised: None where the system does not say.
        offset: seconds that the kernel still has to take away.
        max_error: seconds that the clock may be off at most, as the kernel reckons.
    """

    synchronised: bool | None
    offset: float = 0.0
    max_error: float = 0.0


class _Timeval(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("usec", ctypes.c_long))


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h>."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long),
        ("jitter", ctypes.c_long),
        ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long),
        ("jitcnt", ctypes.c_long),
        ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long),
        ("stbcnt", ctypes.c_long),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def system_synchronisation() -> Synchronisation:
    """The state of the system's clock; it changes nothing (`modes` is 0) and needs no privilege."""
    if _libc is None or not hasattr(_libc, "adjtimex"):
        return Synchronisation(None)
    state = _Timex()
    answer = _libc.adjtimex(ctypes.byref(state))
    if answer < 0:
        return Synchronisation(None)
    unit = 1e-9 if state.status & _STA_NANO else 1e-6
    return Synchronisation(
        synchronised=answer != _TIME_ERROR and not state.status & _STA_UNSYNC,
        offset=state.offset * unit,
        max_error=state.maxerror * 1e-6,
    )
