"""Reading a document that people write: YAML, or JSON, in which no key stands twice."""

from __future__ import annotations

from typing import Any

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json


class KeyTwiceError(ValueError):
    """A key stands more than once in one mapping; YAML's own loader takes the last."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} stands more than once")
        self.name = name


def read_document(data: bytes) -> object:
    """The value of a YAML or JSON document; an empty one is an empty object.

    Raises:
        InvalidArgument: it is neither, or has a key twice.
    """
    if data.lstrip().startswith(b"{"):
        return strict_json(data)
    try:
        document = read_yaml(data)
    except KeyTwiceError as twice:
        raise InvalidArgument.field(twice.name, "the key stands twice") from None
    except ValueError as error:
        raise InvalidArgument.field("body", f"not YAML: {error}") from None
    return {} if document is None else document


def read_yaml(data: bytes) -> object:
    """The value of a YAML document; of an empty one None.

    Raises:
        ValueError: it is none; says why and in which line, and shows nothing of it.
        KeyTwiceError: it has a key twice.
    """
    import yaml  # only a document in YAML needs it

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            for name in names:
                if names.count(name) > 1 and name != "<<":
                    raise KeyTwiceError(str(name))
            return super().construct_mapping(node, deep)

    try:
        document: object = yaml.load(data, UniqueKeys)  # noqa: S506 - a SafeLoader
    except KeyTwiceError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(place + (getattr(error, "problem", None) or "a value in it cannot be read")) from None
    return document
