"""The same evidence has the same hash over REST and over gRPC, whatever is in it."""

from __future__ import annotations

from typing import Any

import grpc.aio
import httpx
import orjson
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from afdp.formats.evidence import canonical_evidence, evidence_from_json, evidence_hash
from afdp.rpc.codec import decoder
from tests.e2e.answers import SIGN
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, call, message

JSON = {"content-type": "application/json"}
SAFE = 2**53 - 1
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
NUMBERS = st.one_of(
    st.sampled_from([1e21, 1e20, 5e-324, -0.0, 0.1, 1e-7, 1.7976931348623157e308, SAFE, -SAFE, 2**31, 123456789.125]),
    st.integers(-SAFE, SAFE),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
ARTIFACTS = st.lists(
    st.fixed_dictionaries(
        {"name": NAME.filter(lambda name: name != "evidence-package"), "uri": TEXT, "hash_sha256": HASHES}
    ),
    max_size=4,
    unique_by=lambda artifact: artifact["name"],
)
PACKAGES = st.fixed_dictionaries(
    {
        "spec_version": st.just("1.0.0"),
        "timestamp_utc": st.sampled_from(
            [
                "2026-11-01T12:00:00Z",
                "0001-01-01T00:00:00.000001Z",
                "2026-11-01T12:00:00.1+05:30",
                "1969-12-31T23:59:59.999Z",
            ]
        ),
        "event_type": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}(\.[a-z0-9][a-z0-9_-]{0,8}){1,3}", fullmatch=True),
        "actor": st.fixed_dictionaries({"actor_type": NAME, "id": NAME, "auth_provider": TEXT}),
        "artifacts": ARTIFACTS,
        "metadata": st.dictionaries(TEXT, VALUES, max_size=4),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=PACKAGES)
@example(sent=package(metadata={"numbers": [1e21, 5e-324, -0.0, 0.0, SAFE, -SAFE, 1e-7, 0.1, 333333333.3333333]}))
@example(sent=package(metadata={"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "ö": 7, "": 8}))
@example(sent=package(actor={"actor_type": "ai_agent", "id": "\u0061\u030a"}, artifacts=[], metadata={}))
async def test_the_same_evidence_has_the_same_hash_over_both_ways_in(
    rest: httpx.AsyncClient, channel: grpc.aio.Channel, sent: dict[str, Any]
) -> None:
    method = BUILT["SignEvidence"]

    answer = await rest.post(SIGN, content=orjson.dumps({"evidence_package": sent}), headers=JSON)
    data = await call(channel, method, message(method, {"evidence_package": sent}).SerializeToString())

    assert answer.status_code == 200, answer.text
    assert isinstance(data, bytes), data
    receipt = decoder(method.response)(data).receipt
    assert receipt.evidence_package_hash == answer.json()["receipt"]["evidence_package_hash"]
    # And it is the hash of the form that anyone can make.
    package_read = evidence_from_json(orjson.loads(orjson.dumps(sent)))
    assert receipt.evidence_package_hash == evidence_hash(canonical_evidence(package_read))
