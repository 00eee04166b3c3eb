"""Sample values for schemas: what a reader can copy and change."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]
Schema = dict[str, Any]


def resolved(schema: Schema, document: Document) -> Schema:
    """The schema that is meant: through `$ref`, and the first alternative that is not null.

    What stands beside a `$ref`, such as a description, wins over what it points at.
    """
    if "anyOf" in schema:
        chosen = next(one for one in schema["anyOf"] if one.get("type") != "null")
        return resolved({**chosen, **{key: value for key, value in schema.items() if key != "anyOf"}}, document)
    if "$ref" not in schema:
        return schema
    found: Any = document
    for step in schema["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def request_example(schema: Schema, document: Document) -> Any:
    """The least that is worth sending: required fields, and those that have an example."""
    schema = resolved(schema, document)
    if "examples" in schema:
        return schema["examples"][0]
    if "properties" not in schema:
        return _plain(schema, document, request_example)
    wanted = set(schema.get("required", ()))
    return {
        name: request_example(field, document)
        for name, field in schema["properties"].items()
        if name in wanted or "examples" in field or "items" in resolved(field, document)
    }


def answer_example(schema: Schema, document: Document) -> Any:
    """An answer with every field, as it is printed."""
    schema = resolved(schema, document)
    if "examples" in schema:
        return schema["examples"][0]
    if "properties" not in schema:
        return _plain(schema, document, answer_example)
    return {name: answer_example(field, document) for name, field in schema["properties"].items()}


def _plain(schema: Schema, document: Document, of: Any) -> Any:
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if "enum" in schema:
        return next((word for word in schema["enum"] if word != "unspecified"), schema["enum"][0])
    if kind == "array":
        return [of(schema["items"], document)] if "items" in schema else []
    if schema.get("format") == "date-time":
        return "2026-11-24T04:09:28Z"
    return {"string": "…", "integer": 0, "number": 0.0, "boolean": False, "object": {}, "null": None}[kind]
