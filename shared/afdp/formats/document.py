"""Reading a document that people write: YAML, or JSON, in which no key stands twice."""

from __future__ import annotations

from typing import Any

from afdp.errors import InvalidArgument
from afdp.formats.canonical import strict_json


def read_document(data: bytes) -> object:
    """The value of a YAML or JSON document; an empty one is an empty object.

    Raises:
        InvalidArgument: it is neither, or has a key twice.
    """
    if data.lstrip().startswith(b"{"):
        return strict_json(data)
    import yaml  # only a document in YAML needs it

    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := {str(key) for key in keys if keys.count(key) > 1}:
                raise InvalidArgument.field(min(twice), "the key stands twice")
            return super().construct_mapping(node, deep)

    try:
        document: object = yaml.load(data, UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InvalidArgument.field("body", f"not YAML: {' '.join(str(error).split())}") from error
    return {} if document is None else document
