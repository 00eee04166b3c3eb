"""The OpenAPI document as one page of HTML: no script, nothing from elsewhere, good in print and for screen readers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

from afdp.gateway.body import JSON
from afdp.gateway.examples import Document, Schema, answer_example, request_example, resolved

Operation = dict[str, Any]


def page(document: Document, style: str) -> str:
    """The whole page. `style` stands in it as it is."""
    info = document["info"]
    title = escape(info["title"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – API</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="frame">
<nav aria-label="Operations"><p>{title}</p>{"".join(_contents(document))}</nav>
<main id="content">
<h1>{title}</h1>
<p class="version">Version {escape(info["version"])} · <a href="/openapi.json">openapi.json</a></p>
{_paragraphs(info["description"])}
{"".join(_sections(document))}
</main>
</div>
</body>
</html>
"""


def _contents(document: Document) -> Iterator[str]:
    for tag in document["tags"]:
        links = (
            f'<a href="#{operation["operationId"]}">{_verb(verb)} <span>{_text(operation["summary"])}</span></a>'
            for verb, _, operation in _operations(document, tag["name"])
        )
        items = "".join(f"<li>{link}</li>" for link in links)
        yield f"<h2>{escape(_words(tag['name']))}</h2><ul>{items}</ul>"


def _sections(document: Document) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<section><h2>{escape(_words(tag['name']).capitalize())}</h2><p>{_text(tag['description'])}</p>"
        for verb, path, operation in _operations(document, tag["name"]):
            yield _article(verb, path, operation, document)
        yield "</section>"


def _operations(document: Document, tag: str) -> Iterator[tuple[str, str, Operation]]:
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            if tag in operation["tags"]:
                yield verb, path, operation


def _article(verb: str, path: str, operation: Operation, document: Document) -> str:
    name = operation["operationId"]
    parts = [
        f'<article id="{name}" aria-labelledby="{name}-title">',
        f'<h3 id="{name}-title">{_text(operation["summary"])}</h3>',
        f'<p class="call">{_verb(verb)}{escape(path)}</p>',
        "" if operation["description"].rstrip(".") == operation["summary"] else _paragraphs(operation["description"]),
        _parameters(operation.get("parameters", []), document),
        _body(operation, document),
        f"<h4>Try it</h4>{_code(_curl(verb, path, operation, document))}",
        _answers(operation, document),
        "</article>",
    ]
    return "".join(parts)


def _parameters(parameters: list[dict[str, Any]], document: Document) -> str:
    if not parameters:
        return ""
    rows = "".join(
        _row(
            parameter["name"],
            f"{_kind(parameter['schema'], document)} · {parameter['in']}",
            parameter["description"],
            required=parameter["required"],
        )
        for parameter in parameters
    )
    return f"<h4>Parameters</h4>{_table(rows)}"


def _body(operation: Operation, document: Document) -> str:
    if "requestBody" not in operation:
        return ""
    [(media_type, content)] = operation["requestBody"]["content"].items()
    if media_type != JSON:
        return f"<h4>Body</h4>{_raw(media_type, content['schema'])}"
    return f"<h4>Body</h4>{_fields(content['schema'], document)}"


def _answers(operation: Operation, document: Document) -> str:
    success = next(status for status in operation["responses"] if status.startswith("2"))
    ok = operation["responses"][success]
    schema = ok["content"].get(JSON, {}).get("schema")
    if schema is not None:
        example = json.dumps(answer_example(schema, document), indent=2, ensure_ascii=False)
        shown = _code(example) + _fields(schema, document)
    else:
        shown = "".join(_raw(media_type, content["schema"]) for media_type, content in ok["content"].items())
    problems = "".join(
        f"<li><code>{status}</code> {_text(resolved(response, document)['description'])}</li>"
        for status, response in operation["responses"].items()
        if status not in (success, "default")
    )
    return f"<h4>Answer</h4><details><summary>{success} · {_text(ok['description'])}</summary>{shown}</details>" + (
        f'<details><summary>Problems</summary><ul class="statuses">{problems}</ul></details>' if problems else ""
    )


def _raw(media_type: str, schema: Schema) -> str:
    """A body that is no JSON."""
    most = f" · at most {schema['maxLength']} bytes" if "maxLength" in schema else ""
    return f"<p><code>{escape(media_type)}</code>{most} · {_text(schema['description'])}</p>"


def _fields(schema: Schema, document: Document) -> str:
    """A table of an object's fields, nested ones by their path."""
    return _table("".join(_rows(schema, document, "", ())))


def _rows(schema: Schema, document: Document, prefix: str, within: tuple[str, ...]) -> Iterator[str]:
    schema = resolved(schema, document)
    required = schema.get("required", ()) if schema.get("additionalProperties") is False else ()
    for name, field in schema.get("properties", {}).items():
        meant = resolved(field, document)
        yield _row(prefix + name, _kind(field, document), meant.get("description", ""), required=name in required)
        inner = resolved(meant["items"], document) if "items" in meant else meant
        path = prefix + name + ("[]." if "items" in meant else ".")
        if "properties" in inner and str(inner["properties"].keys()) not in within:
            yield from _rows(inner, document, path, (*within, str(inner["properties"].keys())))


def _row(name: str, kind: str, said: str, *, required: bool) -> str:
    mark = ' <span class="required">required</span>' if required else ""
    prefix, dot, leaf = name.rpartition(".")
    within = f'<span class="within">{escape(prefix + dot)}</span>' if dot else ""
    field = f'<th scope="row"><code>{within}{escape(leaf)}</code>{mark}</th>'
    return f"<tr>{field}<td>{escape(kind)}</td><td>{_text(said)}</td></tr>"


def _table(rows: str) -> str:
    head = '<tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">Meaning</th></tr>'
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _kind(schema: Schema, document: Document) -> str:
    meant = resolved(schema, document)
    if "enum" in meant:
        return " | ".join(str(word) for word in meant["enum"] if word is not None)
    kinds = [meant["type"]] if isinstance(meant["type"], str) else [kind for kind in meant["type"] if kind != "null"]
    if kinds == ["array"]:
        return f"{_kind(meant['items'], document)}[]"
    word = meant.get("format") if meant.get("format") in ("date-time", "uuid") else kinds[0]
    return f"{word} ≤ {meant['maxLength']}" if "maxLength" in meant else str(word)


def _curl(verb: str, path: str, operation: Operation, document: Document) -> str:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            value = str(request_example(parameter["schema"], document))
            path = path.replace(f"{{{parameter['name']}}}", value)
    query = [
        f"{parameter['name']}={parameter['schema']['examples'][0]}"
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query" and "examples" in parameter["schema"]
    ]
    url = shlex.quote(f"http://127.0.0.1:3030{path}{'?' + '&'.join(query) if query else ''}")
    if "requestBody" not in operation:
        return f"curl {url}"
    [(media_type, content)] = operation["requestBody"]["content"].items()
    if media_type != JSON:
        return f"curl {url} \\\n  -H 'Content-Type: {media_type}' \\\n  --data-binary @request -o answer"
    body = json.dumps(request_example(content["schema"], document), indent=2, ensure_ascii=False)
    return f"curl {url} \\\n  -H 'Content-Type: {JSON}' \\\n  -d {shlex.quote(body)}"


def _words(tag: str) -> str:
    return tag.replace("-", " ")


def _code(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def _verb(verb: str) -> str:
    return f'<span class="verb {verb}">{verb.upper()}</span>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n"))


def _text(text: str) -> str:
    """Escaped, with `code` in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
