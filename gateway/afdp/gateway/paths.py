"""Where in a request a value stands, in the words that callers read: `evidence_package.artifacts[0].hash_sha256`."""

from __future__ import annotations

import re

from google.protobuf.descriptor import Descriptor

from afdp.formats.canonical import member_path
from afdp.gateway.names import spellings

Path = tuple["Path | None", str | int]
"""A value's place: its parent's path, and its name or index. The cheapest form to make and throw away."""


def rendered(path: Path | None) -> str:
    """A path as callers read it; `body` for the whole."""
    steps: list[str | int] = []
    while path is not None:
        path, step = path
        steps.append(step)
    text = ""
    for step in reversed(steps):
        text = f"{text or 'body'}[{step}]" if isinstance(step, int) else member_path(text, step)
    return text or "body"


def proto_path(message: Descriptor, path: str) -> str:
    """A path that has keys as they were written (`evidencePackage.actor.type`), in proto names.

    What lies inside of free JSON, or is no field, stays as it was written.
    """
    names: list[str] = []
    at: Descriptor | None = message
    rest = path
    while at is not None and (step := _STEP.match(rest)):
        word = step["word"]
        if word is not None:
            field = next((field for field in at.fields if word in spellings(field)), None)
            if field is None:
                break
            names.append(f".{field.name}" if names else field.name)
            at = field.message_type
            at = None if at is None or at.full_name.startswith("google.protobuf.") else at
        else:
            names.append(step[0])
        rest = rest[step.end() :]
    return "".join(names) + rest


_STEP = re.compile(r"\.?(?P<word>[\w-]+)|\[[0-9]+\]")
