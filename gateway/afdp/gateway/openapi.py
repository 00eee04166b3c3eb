"""The OpenAPI 3.1 document, from the descriptors that the gateway itself works by, and their comments."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from afdp.gateway.body import JSON
from afdp.gateway.descriptors import Api, HttpRule, Method, RawBody
from afdp.gateway.events import MEDIA_TYPE as EVENTS
from afdp.gateway.rekor import PREFIX as REKOR
from afdp.gateway.rekor_schemas import BODIES, STATUS
from afdp.gateway.request import IDEMPOTENCY_KEY
from afdp.gateway.routes import template_variables
from afdp.gateway.schemas import Schema, Schemas
from afdp.version import VERSION

_DESCRIPTION = """\
Evidence of what was trained, approved and deployed goes in; out comes a receipt that anyone can verify offline.

Fields are named in `snake_case`; `camelCase` is read too. `null` is as good as absent. Unknown fields, duplicate keys \
and wrong types are refused, and the problem document names each field. Answers print every field. Timestamps are \
RFC 3339. Every answer has the header `X-Request-ID`: the caller's, where it sent a well-formed one."""

_TAGS = {
    "evidence": "Notarise, validate and find evidence.",
    "receipts": "Receipts by their ID.",
    "workflows": "What became of a request to notarise.",
    "keys": "The keys that sign.",
    "log": "Entries that you sign yourself, for clients of Rekor v2: as there, errors are a `google.rpc.Status`.",
    "timestamp": "The time, signed (RFC 3161).",
    "trust-root": "What a verifier has to trust.",
    "status": "How each part is, for operators.",
    "health": "Does it live, and can it work?",
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The ID of the last event that was seen, which is a cursor: it goes before the parameter.",
    "schema": {"type": "string"},
}
_EVENTS = (
    "Server-sent events. The data of `receipt` and `withheld` is a `{}` as JSON, their ID its cursor. The data of "
    "`end` is a problem document: the client comes back with its last ID."
)
_REQUEST_ID = {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}


def openapi(api: Api) -> dict[str, Any]:
    """The document. Methods that are planned, or that take a stream, are not in it."""
    schemas = Schemas(api)
    paths: dict[str, dict[str, Any]] = {"/health": {"get": _HEALTH}}
    for method in api.methods:
        for rule in method.rules:
            if not method.planned and (method.tells or not method.streaming):
                path = re.sub(r"\{(\w+)(=[^}]*)?\}", r"{\1}", rule.template)
                paths.setdefault(path, {})[rule.verb.lower()] = _operation(api, method, rule, schemas)
    used = {tag for operations in paths.values() for operation in operations.values() for tag in operation["tags"]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AFDP Notary Service",
            "version": VERSION,
            "summary": api.comments.get(api.service.full_name, ""),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": said} for name, said in _TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(schemas.components.items())), "Problem": _PROBLEM},
            "responses": _PROBLEM_RESPONSES,
            "headers": {"RequestId": {"description": "Names this request in logs.", "schema": {"type": "string"}}},
        },
    }


def _operation(api: Api, method: Method, rule: HttpRule, schemas: Schemas) -> dict[str, Any]:
    comment = api.comments.get(f"{api.service.full_name}.{method.name}", method.name)
    variables = template_variables(rule.template)
    parameters = [_parameter(method.request.fields_by_name[name], "path", schemas) for name in variables]
    operation: dict[str, Any] = {
        "operationId": method.name,
        "tags": [_tag(rule.template)],
        "summary": comment.split(". ")[0].split("; ")[0].rstrip("."),
        "description": comment,
    }
    if rule.raw_request:
        operation["requestBody"] = {"required": True, "content": _raw_content(rule.raw_request, schemas)}
    elif rule.body == "*":
        if IDEMPOTENCY_KEY in method.request.fields_by_name:
            parameters.append(_idempotency_header(method, schemas))
        schema = schemas.read(method.request, frozenset(variables))
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    else:
        rest = [field for field in method.request.fields if field.name not in variables]
        parameters += [_parameter(field, "query", schemas) for field in rest]
    if method.tells and not rule.raw_response:
        parameters.append(_LAST_EVENT_ID)
    if parameters:
        operation["parameters"] = parameters
    raw = api.raw_fields(method.response) if rule.raw_response else []
    operation["responses"] = _responses(method, rule, raw, schemas)
    return operation


def _raw_content(raw: RawBody, schemas: Schemas) -> dict[str, Any]:
    """A body that is no message. `format: binary` is of OpenAPI 3.0; 3.1 leaves the schema free, and tools read it."""
    if raw.media_type == JSON:
        return {JSON: {"schema": BODIES[raw.field.full_name]}}
    schema: Schema = {"type": "string", "format": "binary", "description": schemas.field_comment(raw.field)}
    if raw.max_bytes:
        schema |= {"minLength": 1, "maxLength": raw.max_bytes}
    return {raw.media_type: {"schema": schema}}


def _parameter(field: FieldDescriptor, place: str, schemas: Schemas) -> dict[str, Any]:
    schema = schemas.field_read(field)
    said = schema.pop("description", "")
    return {"name": field.name, "in": place, "required": place == "path", "description": said, "schema": schema}


def _idempotency_header(method: Method, schemas: Schemas) -> dict[str, Any]:
    parameter = _parameter(method.request.fields_by_name[IDEMPOTENCY_KEY], "header", schemas)
    said = "The field `idempotency_key` as a header. Where both are given they must be the same."
    return {**parameter, "name": "Idempotency-Key", "description": said}


def _responses(method: Method, rule: HttpRule, raw: list[RawBody], schemas: Schemas) -> dict[str, Any]:
    statuses = ["400", "401", "403", "429", "503", "504"]
    if "{" in rule.template:
        statuses.append("404")
    if any(each in rule.template for each in _NAMES_A_RECORD):
        statuses.append("410")
    if rule.body:
        statuses += ["408", "413", "415"]
    if IDEMPOTENCY_KEY in method.request.fields_by_name:
        statuses.append("409")
    said = schemas.comment(method.response) or "The answer."
    if raw:
        answer = {kind: shape for each in raw for kind, shape in _raw_content(each, schemas).items()}
    elif method.tells:
        # OpenAPI 3.1 has no word for what one event is: its schema stands among the components all the same.
        schemas.printed(method.response)
        answer = {EVENTS: {"schema": {"type": "string", "description": _EVENTS.format(method.response.name)}}}
    else:
        answer = {JSON: {"schema": schemas.printed(method.response)}}
    ok = {str(method.success): {"description": said, "headers": _REQUEST_ID, "content": answer}}
    if rule.template.startswith(REKOR):
        return ok | {status: _STATUS_RESPONSES[status] for status in [*sorted({*statuses, "409"}), "default"]}
    return ok | {status: {"$ref": f"#/components/responses/{status}"} for status in [*sorted(statuses), "default"]}


def _tag(template: str) -> str:
    found = re.match(r"/api/v\d+/([\w-]+)", template)
    return found[1] if found else "health"


_NAMES_A_RECORD = ("{receipt_id}", "{evidence_package_hash}", "{workflow_id}")

_PROBLEM: Schema = {
    "description": "A problem document (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": ["https://afdp.dev/problems/invalid-argument"]},
        "title": {"type": "string", "description": "The type in words."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What was wrong, and what to do."},
        "code": {"type": "string", "description": "The gRPC code's name.", "examples": ["INVALID_ARGUMENT"]},
        "request_id": {"type": "string", "description": "As in the header `X-Request-ID`."},
        "errors": {
            "type": "array",
            "description": "Each field that was refused.",
            "items": {
                "type": "object",
                "properties": {
                    "field": {
                        "type": "string",
                        "description": "Its path in proto names; `body` for the whole.",
                        "examples": ["evidence_package.artifacts[0].hash_sha256"],
                    },
                    "message": {"type": "string", "description": "What is wrong with it."},
                },
                "required": ["field", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
}


def _problem_response(said: str, *, retry: bool = False) -> dict[str, Any]:
    hint = {"description": "Seconds after which a retry makes sense.", "schema": {"type": "integer"}}
    return {
        "description": said,
        "headers": {**_REQUEST_ID, **({"Retry-After": hint} if retry else {})},
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


_PROBLEM_RESPONSES = {
    "400": _problem_response("The request is not valid; `errors` names the fields."),
    "401": _problem_response("Who is calling is not known."),
    "403": _problem_response("The caller may not do this."),
    "404": _problem_response("There is no such thing, or not for this caller."),
    "408": _problem_response("The request did not arrive in time; nothing was done."),
    "410": _problem_response(
        "Its subject was erased, and nobody can read it any more; `erased_at` says when, `certificate` which receipt "
        "certifies it."
    ),
    "409": _problem_response("Something else stands under this name already."),
    "413": _problem_response("The body is too large."),
    "415": _problem_response("The body is of another media type than is asked for."),
    "429": _problem_response("Too much at once.", retry=True),
    "503": _problem_response("A dependency is away; nothing is lost.", retry=True),
    "504": _problem_response("The time ran out; retry with the same idempotency key."),
    "default": _problem_response("Any other error."),
}

_LOG_INDEX = {"X-Log-Index": {"description": "Where the entry is.", "schema": {"type": "integer"}}}
_STATUS_RESPONSES = {
    status: {
        "description": response["description"],
        "headers": response["headers"] | (_LOG_INDEX if status == "409" else {}),
        "content": {JSON: {"schema": STATUS}},
    }
    for status, response in _PROBLEM_RESPONSES.items()
}

_HEALTH: dict[str, Any] = {
    "operationId": "Health",
    "tags": ["health"],
    "summary": "Whether the gateway lives",
    "description": "The gateway's own life, whatever is behind it.",
    "responses": {
        "200": {
            "description": "It lives.",
            "headers": _REQUEST_ID,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "status": {"type": "string", "enum": ["healthy"]},
                            "version": {"type": "string"},
                            "uptime_seconds": {"type": "integer", "minimum": 0},
                        },
                        "required": ["status", "version", "uptime_seconds"],
                    }
                }
            },
        },
        "default": {"$ref": "#/components/responses/default"},
    },
}
