"""How far the audit trail was verified, as a file: replaced whole, with a digest.

It is not signed: who can write it can make a verification pass over something. Keep it as safe as the trust root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from afdp.audit.seals import seal_hash
from afdp.audit.verify import Acts, Chain, Fault, Finding
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.whole_file import write_whole

_FORMAT = "afdp-audit-verify/1"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was verified up to now.

    Attributes:
        scope: of which rows.
        number: of the newest seal; 0: there was none.
        seal: its hash.
        row: the sequence of the last row.
        anchored: the number of the newest seal that the log knew.
        unfinished: acts without an outcome, and the rows of their intents.
        announced, told: of expiries, which were announced, and which are said to have happened.
        holds, released: of legal holds, which were placed, with their tenants, and which were released.
    """

    scope: str
    number: int
    seal: bytes
    row: int
    anchored: int
    unfinished: Mapping[str, int]
    announced: Sequence[str] = ()
    told: Sequence[str] = ()
    holds: Mapping[str, str] = field(default_factory=dict)
    released: Sequence[str] = ()

    def check(self, number: int, body: bytes) -> Finding | None:
        """The seal that should be the one that was verified before."""
        if number == self.number and seal_hash(body) == self.seal:
            return None
        why = f"seal {self.number} is not there" if number != self.number else "it is another than was verified before"
        return Finding(Fault.REWRITTEN, f"seal {self.number}", why)

    def resume(self, body: bytes) -> tuple[Chain, Acts]:
        """What goes on behind that seal."""
        return Chain(self.number, self.anchored, body), Acts(dict(self.unfinished))


def load_remembered(path: Path, scope: str) -> Remembered | None:
    """What the file says; None where there is none yet.

    Raises:
        InvalidArgument: it is damaged, or of other rows.
        FailedPrecondition: it cannot be read.
    """
    try:
        content = orjson.loads(path.read_bytes())
        digest = content.pop("sha256", "")
        if content.pop("format") != _FORMAT or digest != _digest(content):
            raise ValueError
        found = Remembered(**{**content, "seal": bytes.fromhex(content["seal"])})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InvalidArgument(f"{path} is damaged, or is not a state of audit verify") from None
    if found.scope != scope:
        raise InvalidArgument(f"{path} is of {found.scope}, not of {scope}: each needs a state of its own")
    return found


def save_remembered(path: Path, verified: Remembered) -> None:
    """Keeps how far a verification has come that has found nothing.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    content = {**asdict(verified), "seal": verified.seal.hex()}
    whole = {"format": _FORMAT, **content, "sha256": _digest(content)}
    try:
        write_whole(path, orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
