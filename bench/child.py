"""A load generator runs in a process of its own and leaves its result in a file."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson


async def result_of(module: str, *arguments: str) -> dict[str, Any]:
    """Runs `python -m MODULE FILE ARGUMENTS…` and reads what it wrote."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, file.name, *arguments)
        if await process.wait():
            raise SystemExit(f"{module} failed")
        result: dict[str, Any] = orjson.loads(file.read())
        return result


def leave_result(file: str, result: dict[str, object]) -> None:
    """The child's end of it."""
    Path(file).write_bytes(orjson.dumps(result))
