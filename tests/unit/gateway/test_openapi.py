"""The document agrees with what the gateway does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema
import orjson
import pytest

from afdp.formats.entry_request import read_entry_request
from afdp.gateway.descriptors import Api
from afdp.gateway.examples import request_example
from afdp.gateway.known import CONSTRAINTS, REQUIRED
from afdp.gateway.openapi import openapi
from afdp.gateway.page import page
from afdp.verify.entry_request import verify_entry_request


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    return orjson.loads(orjson.dumps(openapi(api)))  # type: ignore[no-any-return]


def check(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def body_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema


def test_every_method_that_works_is_in_it_and_no_other(api: Api, document: dict[str, Any]) -> None:
    named = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}

    assert named == {method.name for method in api.methods if not method.planned} | {"Health"}
    assert {"SignEvidence", "HealthCheck"} <= named
    assert named.isdisjoint({"DecideApproval", "CancelWorkflow"})


def test_everything_is_described(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"]
            assert all(parameter["description"] for parameter in operation.get("parameters", []))
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, shape in schema.get("properties", {}).items():
            assert name == "Problem" or shape.get("description"), f"{name}.{field}"


def test_what_is_known_beyond_types_names_fields_that_exist(api: Api) -> None:
    messages = {method.request.name: method.request for method in api.methods}
    package = messages["SignEvidenceRequest"].fields_by_name["evidence_package"].message_type
    messages |= {"EvidencePackage": package}
    messages |= {field.message_type.name: field.message_type for field in package.fields if field.message_type}
    for name in CONSTRAINTS:
        message, field = name.split(".")
        assert field in messages[message].fields_by_name, name
    for message, fields in REQUIRED.items():
        assert set(fields) <= set(messages[message].fields_by_name), message


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/api/v1/evidence/sign", "SignEvidence"),
        ("/api/v1/evidence/sign/batch", "SignEvidenceBatch"),
        ("/api/v1/evidence/validate", "ValidateEvidence"),
        ("/api/v1/keys:rotate", "RotateKey"),
    ],
)
def test_the_example_is_valid_and_is_read(document: dict[str, Any], decode: Any, path: str, method: str) -> None:
    schema = body_schema(document, path)
    example = request_example(schema, document)

    check(document, schema, example)
    assert decode(method, orjson.dumps(example)).ListFields()


@pytest.mark.parametrize(
    "body",
    [
        {"evidence_package": {}, "colour": 1},
        {"evidence_package": {"actor": {"id": 5}}},
        {"evidence_package": {"artifacts": {}}},
        {"evidence_package": {}, "dedupe": "true"},
        {"evidence_package": {}, "wait_for": "sealed"},
        [],
    ],
)
def test_what_the_decoder_refuses_the_schema_refuses(
    document: dict[str, Any], refusals: Callable[..., dict[str, str]], body: Any
) -> None:
    assert refusals("SignEvidence", orjson.dumps(body))
    with pytest.raises(jsonschema.ValidationError):
        check(document, body_schema(document, "/api/v1/evidence/sign"), body)


def test_empty_answers_are_valid_by_their_schemas(api: Api, document: dict[str, Any], encode: Any) -> None:
    operations = {op["operationId"]: op for path in document["paths"].values() for op in path.values()}
    for method in api.methods:
        if method.planned or method.tells or method.rules[0].raw_response:
            continue
        schema = operations[method.name]["responses"]["200"]["content"]["application/json"]["schema"]
        check(document, schema, orjson.loads(encode(api.message_class(method.response.full_name)())))


def test_rekors_bodies_are_described_and_the_example_is_one_that_a_log_takes(document: dict[str, Any]) -> None:
    operation = document["paths"]["/api/v2/log/entries"]["post"]
    example = request_example(body_schema(document, "/api/v2/log/entries"), document)

    check(document, body_schema(document, "/api/v2/log/entries"), example)
    verify_entry_request(read_entry_request(orjson.dumps(example)))
    assert "200" not in operation["responses"]
    [(media_type, refused)] = operation["responses"]["400"]["content"].items()
    assert media_type == "application/json"
    assert set(refused["schema"]["properties"]) == {"code", "message", "details"}
    assert "hashedRekordRequestV002.signature.verifier." in page(document, "")


def test_a_body_that_is_no_json_is_said_to_be_what_it_is(document: dict[str, Any]) -> None:
    operation = document["paths"]["/api/v1/timestamp"]["post"]

    [(sent, body)] = operation["requestBody"]["content"].items()
    [(got, _)] = operation["responses"]["200"]["content"].items()
    assert (sent, got) == ("application/timestamp-query", "application/timestamp-reply")
    assert body["schema"]["maxLength"] == 8192
    assert "415" in operation["responses"]
    assert "CreateTimestampRequest" not in document["components"]["schemas"]
    assert "--data-binary" in page(document, "")
