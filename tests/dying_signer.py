"""Dies at each step that a change to subjects' keys takes on the disk, each time on a fresh copy of the folder.

    python -m tests.dying_signer FOLDER generate|rotate|destroy

The copies stay, named `FOLDER-CHANGE-STEP`; in the last one the change went through. A step is a call of the operating
system that opens, writes, syncs, links, renames, removes or makes something; a write is torn as well.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from afdp.signer.datakeys import Scope
from afdp.signer.kek import FileKek
from afdp.signer.subjectfiles import open_subject_files

_ALICE = Scope("bank", "alice@example.org")
_STEPS = ("open", "write", "fsync", "link", "replace", "unlink", "mkdir")


def main(folder: Path, change: str) -> None:
    """Forks until a child lives."""
    kek = FileKek(folder / "data-keys" / "kek.json", folder / "passphrase")
    for step in count(1):
        copy = folder.with_name(f"{folder.name}-{change}-{step}")
        shutil.copytree(folder, copy)
        child = os.fork()
        if child == 0:
            with open_subject_files(copy / "data-keys", kek) as files:
                die_at(step)
                asyncio.run(
                    {
                        "generate": lambda: files.seal([(_ALICE, bytes(32))]),
                        "rotate": lambda: files.rotate(_ALICE),
                        "destroy": lambda: files.destroy(_ALICE),
                    }[change]()
                )
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return
        if code != -9:
            sys.exit(f"step {step} ended with {code}")


def die_at(step: int) -> None:
    """From now on the process counts its steps, and kills itself instead of taking this one."""
    taken = count(1)

    def dies(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if next(taken) == step:
                os.kill(os.getpid(), 9)
            if function is write and next(taken) == step:
                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), 9)
            return function(*arguments, **named)

        return wrapped

    write = os.write
    for name in _STEPS:
        setattr(os, name, dies(getattr(os, name)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
