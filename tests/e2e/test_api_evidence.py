"""The rules of evidence, the same over both ways in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc.aio
import httpx
import pytest

from afdp.errors import InvalidArgument
from tests.e2e.answers import SIGN, problem
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, TIMEOUT, call, message, request

pytestmark = pytest.mark.usefixtures("nothing_is_written")


Spoil = Callable[[dict[str, Any]], object]


def put(path: str, value: Any) -> Spoil:
    def spoil(evidence: dict[str, Any]) -> None:
        holder: Any = evidence
        *steps, last = path.split(".")
        for step in steps:
            holder = holder[int(step) if step.isdigit() else step]
        holder[last] = value

    return spoil


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


MANY = [{"name": f"a{n}", "hash_sha256": "5e" * 32} for n in range(1001)]
PATHS = {"SignEvidence": SIGN, "ValidateEvidence": "/api/v1/evidence/validate"}
ONE = {"name": "model.bin", "hash_sha256": "5e" * 32}
RULES_OF_EVIDENCE: list[tuple[str, Spoil, str]] = [
    ("no version", put("spec_version", ""), "spec_version"),
    ("another version", put("spec_version", "1.0.1"), "spec_version"),
    ("no time", put("timestamp_utc", None), "timestamp_utc"),
    ("far future", put("timestamp_utc", "2999-01-01T00:00:00Z"), "timestamp_utc"),
    ("nanoseconds", put("timestamp_utc", "2026-11-01T12:00:00.000000001Z"), "timestamp_utc"),
    ("no event type", put("event_type", ""), "event_type"),
    ("an undotted event type", put("event_type", "trained"), "event_type"),
    ("an event type in capitals", put("event_type", "ai.Model"), "event_type"),
    ("an event type with a line end", put("event_type", "ai.model\n"), "event_type"),
    ("a long event type", put("event_type", "a." + "b" * 511), "event_type"),
    ("no actor", put("actor", None), "actor"),
    ("no actor type", put("actor.actor_type", ""), "actor.actor_type"),
    ("a long actor type", put("actor.actor_type", "x" * 513), "actor.actor_type"),
    ("no actor ID", put("actor.id", ""), "actor.id"),
    ("a long actor ID", put("actor.id", "ü" * 257), "actor.id"),
    ("a long auth provider", put("actor.auth_provider", "x" * 513), "actor.auth_provider"),
    ("no artifact name", put("artifacts.0.name", ""), "artifacts[0].name"),
    ("a long artifact name", put("artifacts.0.name", "x" * 513), "artifacts[0].name"),
    ("the reserved name", put("artifacts.0.name", "evidence-package"), "artifacts[0].name"),
    ("a name twice", put("artifacts", [ONE, ONE]), "artifacts[1].name"),
    ("too many artifacts", put("artifacts", MANY), "artifacts"),
    ("no hash", put("artifacts.0.hash_sha256", ""), "artifacts[0].hash_sha256"),
    ("a short hash", put("artifacts.0.hash_sha256", "5e" * 31 + "5"), "artifacts[0].hash_sha256"),
    ("a hash of no hex", put("artifacts.0.hash_sha256", "５e" * 32), "artifacts[0].hash_sha256"),
    ("too deep", put("metadata.deep", nested(32)), "metadata"),
    ("too large", put("metadata.large", "x" * 262_144), ""),
]
NULS = ["event_type", "actor.actor_type", "actor.id", "actor.auth_provider", "artifacts.0.name", "artifacts.0.uri"]
FIELD_OF = {path: path.replace(".0.", "[0].") for path in NULS}


def on_field(field: str) -> str:
    return f"evidence_package.{field}".removesuffix(".")


@pytest.mark.parametrize(("spoil", "field"), [pytest.param(*row[1:], id=row[0]) for row in RULES_OF_EVIDENCE])
@pytest.mark.parametrize("name", PATHS)
async def test_evidence_that_breaks_a_rule_is_named_over_rest_and_grpc(
    rest: httpx.AsyncClient, channel: grpc.aio.Channel, name: str, spoil: Spoil, field: str
) -> None:
    body = request(name)
    spoil(body["evidence_package"])

    answer = await rest.post(PATHS[name], json=body, timeout=TIMEOUT)
    error = await call(channel, BUILT[name], message(BUILT[name], body).SerializeToString())

    named = list(problem(answer, 400, "INVALID_ARGUMENT"))
    assert named[0].startswith(on_field(field))
    assert len(named) == 1
    assert isinstance(error, InvalidArgument)
    assert [fault.field.startswith(on_field(field)) for fault in error.fields] == [True]


@pytest.mark.parametrize("path", NULS)
async def test_a_null_character_is_refused_where_it_stands(
    rest: httpx.AsyncClient, channel: grpc.aio.Channel, path: str
) -> None:
    body = request("SignEvidence")
    put(path, "ai.model\0")(body["evidence_package"])

    answer = await rest.post(SIGN, json=body, timeout=TIMEOUT)
    error = await call(channel, BUILT["SignEvidence"], message(BUILT["SignEvidence"], body).SerializeToString())

    assert list(problem(answer, 400, "INVALID_ARGUMENT")) == [on_field(FIELD_OF[path])]
    assert isinstance(error, InvalidArgument)
    assert [fault.field for fault in error.fields] == [on_field(FIELD_OF[path])]


@pytest.mark.parametrize(
    "metadata",
    [
        *('{"a": 9007199254740992}', '{"a": -9007199254740993}', '{"a": 1e400}', '{"a": "\\u0000"}', '{"\\u0000": 1}'),
        *(
            '{"a": "\\ud800"}',
            '{"a": 1, "a": 1}',
            '{"a": {"b": 1, "\\u0062": 2}}',
            '{"a": NaN}',
            '{"a": 1' + "0" * 400 + "}",
        ),
    ],
)
async def test_json_that_two_readers_could_read_differently_is_refused(rest: httpx.AsyncClient, metadata: str) -> None:
    text = json.dumps({"evidence_package": package(metadata={"@": "@"})}).replace('{"@": "@"}', metadata)

    answer = await rest.post(SIGN, content=text, headers={"content-type": "application/json"}, timeout=TIMEOUT)

    named = problem(answer, 400, "INVALID_ARGUMENT")
    assert all(field.startswith(("evidence_package.metadata", "body")) for field in named)
