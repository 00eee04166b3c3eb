"""The messages of `afdp.signer.v1`, generated into `afdp.pb` with their service, under a shorter path."""

from afdp.pb.afdp.signer.v1 import *
from afdp.pb.afdp.signer.v1 import DataKey
from afdp.pb.stubs.signer import *


def _shown(key: DataKey) -> str:
    return f"DataKey(plain=<{len(key.plain)} bytes>, wrapped={key.wrapped!r})"


# What is printed may end in a log or a traceback: a plain key must not.
DataKey.__repr__ = _shown  # type: ignore[assignment, method-assign]
