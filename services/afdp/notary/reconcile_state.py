"""How far a reconciler has come, as a file: replaced whole, with a digest.

It is not signed: who can write it can make the reconciler pass over something.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.notary.gaps import Gap, Kind
from afdp.notary.reconciling import Progress
from afdp.whole_file import write_whole

_FORMAT = "afdp-reconcile/1"
_COUNTS = ("records", "strangers", "copies", "on_the_way")


def load_progress(path: Path) -> Progress:
    """What the file says, or nothing where there is none.

    Raises:
        InvalidArgument: it is damaged, or is something else.
        FailedPrecondition: it cannot be read.
    """
    try:
        content = orjson.loads(path.read_bytes())
        digest = content.pop("sha256", "")
        if content.get("format") != _FORMAT or digest != _digest(content):
            raise ValueError
        return _from_object(content)
    except FileNotFoundError:
        return Progress()
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InvalidArgument(f"{path} is damaged, or is not a state of the reconciler") from None


def save_progress(path: Path, progress: Progress) -> None:
    """Writes it.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    content = _to_object(progress)
    whole = {**content, "sha256": _digest(content)}
    try:
        write_whole(path, orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error


def _to_object(progress: Progress) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "entries": progress.entries,
        "after": progress.after,
        "strays": progress.strays,
        **{name: getattr(progress, name) for name in _COUNTS},
        "remembered": [[leaf.hex(), *at] for leaf, at in progress.remembered.items()],
        "contradicted": progress.contradicted,
        "furthest": progress.furthest,
        "gaps": [asdict(gap) for gap in progress.gaps],
        "found": dict(progress.found),
        "closed": dict(progress.closed),
    }


def _from_object(content: dict[str, Any]) -> Progress:
    return Progress(
        entries=content["entries"],
        after=content["after"],
        strays=content["strays"],
        **{name: content[name] for name in _COUNTS},
        remembered={bytes.fromhex(leaf): (origin, index) for leaf, origin, index in content["remembered"]},
        contradicted=content["contradicted"],
        furthest=content["furthest"],
        gaps=[Gap(**{**gap, "kind": Kind(gap["kind"])}) for gap in content["gaps"]],
        found=Counter(content["found"]),
        closed=Counter(content["closed"]),
    )


def _digest(content: dict[str, Any]) -> str:
    return sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
