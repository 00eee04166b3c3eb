"""The demonstration: a real file, notarised over REST by five services, and its receipt verified offline.

    python -m afdp.cli.demo [FILE]

Everything is started for the purpose and stopped before the verification, which needs nothing of it.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from afdp.embedded.stack import StackOptions, free_offset, running_stack
from afdp.errors import FailedPrecondition, NotaryError


def main() -> None:
    """The entry point: exits with 0 when the receipt was verified."""
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "LICENSE").resolve()
    if not file.is_file():
        sys.exit(f"{file} is not a file: name one to notarise")
    with tempfile.TemporaryDirectory(prefix="afdp-demo-") as folder:
        try:
            sys.exit(asyncio.run(_demonstrate(file, Path(folder))))
        except NotaryError as error:
            sys.exit(f"the demonstration failed: {error}")


async def _demonstrate(file: Path, folder: Path) -> int:
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, lambda: task and task.cancel())
    # An unprivileged PostgreSQL, when this runs as root, must be able to walk through.
    await asyncio.to_thread(folder.chmod, 0o711)
    receipt, trust = folder / "receipt.json", folder / "trust"
    began = time.monotonic()
    async with running_stack(StackOptions(folder / "data", free_offset())) as stack:
        _say(f"five services are ready at {stack.url} after {time.monotonic() - began:.1f} s")
        await _afdp("--url", stack.url, "sign", file, "--event-type", "ai.artifact.notarized", "-o", receipt)
        await _afdp("--url", stack.url, "trust", "export", "-o", trust)
    _say("everything is stopped; the receipt:")
    print(await asyncio.to_thread(receipt.read_text))
    return await _afdp("verify", receipt, "--artifact", file, "--trust", trust, may_fail=True)


async def _afdp(*arguments: str | Path, may_fail: bool = False) -> int:
    """Runs the command line as a person would, and shows that."""
    words = [str(argument) for argument in arguments]
    _say(shlex.join(["afdp", *words]), mark="$")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "afdp.cli", *words)
    code = await process.wait()
    if code and not may_fail:
        raise FailedPrecondition(f"afdp {words[0]} ended with {code}")
    return code


def _say(text: str, mark: str = "·") -> None:
    print(f"{mark} {text}", flush=True)


if __name__ == "__main__":
    main()
