"""Settings in a YAML file that a setting names: strict in every name, and what is wrong is told by its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from afdp.config import SettingsError
from afdp.formats.document import read_yaml

_MAX_BYTES = 1024 * 1024

M = TypeVar("M", bound=BaseModel)
Location = Sequence[int | str]
"""As pydantic has it."""


def place_of(location: Location) -> str:
    """Where something stands, such as `issuers[0].tenant`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".") or "the file"


def read_settings_file(file: Path, setting: str) -> bytes:
    """What is in it, at most 1 MiB.

    Raises:
        SettingsError: it cannot be read, or is larger; names `setting` and the file.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{setting}: {file} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise SettingsError(f"{setting}: {file} is larger than {_MAX_BYTES} bytes")
    return data


def parse_settings_file(
    schema: type[M], data: bytes, name: str, setting: str, place: Callable[[Location], str] = place_of
) -> M:
    """The settings in a YAML document.

    Raises:
        SettingsError: it is none, or has names that are unknown, missing or stand twice, or wrong values: each with its
            place. No value is shown.
    """
    try:
        document = read_yaml(data)
    except ValueError as error:
        raise SettingsError(f"{setting}: {name} is not valid YAML: {error}") from None
    try:
        return schema.model_validate(document, strict=False)
    except ValidationError as error:
        wrong = [
            f"{setting}: {name}: {place(item['loc'])}: {item['msg']}" for item in error.errors(include_input=False)
        ]
        raise SettingsError("\n".join(wrong)) from None
