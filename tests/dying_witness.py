"""A witness that kills itself at its next cosignature.

    python -m tests.dying_witness FOLDER before|after

Before it has remembered the checkpoint, or after that and before it answers.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from afdp.cli.__main__ import cli
from afdp.witness.key import Ed25519Cosigner
from afdp.witness.state import SqliteState


def _die(*arguments: Any) -> NoReturn:
    os.kill(os.getpid(), 9)
    raise AssertionError


if __name__ == "__main__":
    folder, when = Path(sys.argv[1]), sys.argv[2]
    if when == "before":
        SqliteState.advance = _die  # type: ignore[assignment,method-assign]
    else:
        Ed25519Cosigner.cosign = _die  # type: ignore[assignment,method-assign]
    cli(["witness", "run", str(folder)])
