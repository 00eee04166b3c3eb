"""Every field of every request over gRPC, spoilt as no generated client could: refused where it stands."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor

from afdp.errors import InvalidArgument, NotFound, ResourceExhausted
from tests.e2e.evidence import package
from tests.e2e.wire import BUILT, IDS, PLACES, TIMEOUT, Place, call, message, refused, request, varint

pytestmark = pytest.mark.usefixtures("nothing_is_written")


def of_type(kind: int) -> list[Any]:
    return [pytest.param(name, place, id=f"{name} {place.path}") for name, place in PLACES if place.field.type == kind]


@pytest.mark.parametrize(("name", "place"), of_type(FieldDescriptor.TYPE_STRING))
async def test_text_that_is_not_utf8_is_named(channel: grpc.aio.Channel, name: str, place: Place) -> None:
    sent = message(BUILT[name], request(name))
    if place.field.is_repeated:
        getattr(place.within(sent), place.field.name)[:] = ["\x01\x02\x03\x04"]
    else:
        setattr(place.within(sent), place.field.name, "\x01\x02\x03\x04")
    data = sent.SerializeToString().replace(b"\x01\x02\x03\x04", b"\xff\xfe\xfd\xfc")

    named = refused(await call(channel, BUILT[name], data))
    assert {path.removesuffix("[0]"): said for path, said in named.items()} == {place.path: "is not UTF-8"}


@pytest.mark.parametrize(("name", "place"), PLACES, ids=IDS)
async def test_a_field_of_another_wire_type_is_refused_where_it_stands(
    channel: grpc.aio.Channel, name: str, place: Place
) -> None:
    sent = message(BUILT[name], request(name))
    number = place.field.number
    # Fixed 64 bits: the wire type of no field here.
    place.within(sent).MergeFromString(bytes([number << 3 | 1]) + b"\x07" * 8)

    found = refused(await call(channel, BUILT[name], sent.SerializeToString()))

    kind = place.field.containing_type.full_name
    assert found == {place.holder: f"has a field {number}, which {kind} has not"}


@pytest.mark.parametrize("name", BUILT)
async def test_a_field_of_a_number_that_there_is_not_is_refused(channel: grpc.aio.Channel, name: str) -> None:
    data = message(BUILT[name], request(name)).SerializeToString() + b"\xc2\x3e\x03abc"

    assert refused(await call(channel, BUILT[name], data)) == {
        "body": f"has a field 1000, which {BUILT[name].request.full_name} has not"
    }


TIMES = [
    case
    for case in of_type(FieldDescriptor.TYPE_MESSAGE)
    if case.values[1].field.message_type.full_name == "google.protobuf.Timestamp"
]


@pytest.mark.parametrize(("name", "place"), TIMES)
async def test_a_timestamp_that_there_is_not_is_named(channel: grpc.aio.Channel, name: str, place: Place) -> None:
    for seconds, nanos in ((2**63 - 1, 0), (-(2**63), 0), (253_402_300_800, 0), (0, -1), (0, 1), (0, 2**31 - 1)):
        sent = message(BUILT[name], request(name))
        time = getattr(place.within(sent), place.field.name)
        time.seconds, time.nanos = seconds, nanos

        assert list(refused(await call(channel, BUILT[name], sent.SerializeToString()))) == [place.path]


NUMBERS = of_type(FieldDescriptor.TYPE_INT32) + of_type(FieldDescriptor.TYPE_ENUM)


@pytest.mark.parametrize(("name", "place"), NUMBERS)
async def test_a_number_out_of_range_is_named(channel: grpc.aio.Channel, name: str, place: Place) -> None:
    for number in (-1, 99, 1001, 2**31 - 1, -(2**31)):
        if number == 99 and place.field.type == FieldDescriptor.TYPE_INT32:
            continue  # a good page size
        if number == 1001 and name == "ExportAffectedReceipts":
            continue  # here too
        sent = message(BUILT[name], request(name))
        setattr(place.within(sent), place.field.name, number)

        answer = await call(channel, BUILT[name], sent.SerializeToString())

        if name == "SignEvidenceStream":
            assert isinstance(answer, bytes)  # an item that is refused fails alone
            assert place.field.name.encode() in answer
            assert b"INVALID_ARGUMENT" in answer
        else:
            assert list(refused(answer)) == [place.path]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_a_number_that_is_not_finite_is_named(channel: grpc.aio.Channel, number: float) -> None:
    sent = message(BUILT["SignEvidence"], request("SignEvidence"))
    sent.evidence_package.metadata.update({"a": [{"b": number}]})

    assert list(refused(await call(channel, BUILT["SignEvidence"], sent.SerializeToString()))) == [
        "evidence_package.metadata.a[0].b"
    ]


@pytest.mark.parametrize("levels", [40, 120, 100_000])
async def test_metadata_that_nests_without_end_is_refused(channel: grpc.aio.Channel, levels: int) -> None:
    # Value{list_value}, ListValue{values}, … from the inside.
    parts: list[bytes] = []
    size = 0
    for tag in (b"\x32", b"\x0a") * levels:
        parts.append(tag + varint(size))
        size += len(parts[-1])
    value = b"".join(reversed(parts))
    entry = b"\x0a\x01a" + b"\x12" + varint(len(value)) + value
    struct = b"\x0a" + varint(len(entry)) + entry
    evidence = b"\x32" + varint(len(struct)) + struct

    found = refused(await call(channel, BUILT["SignEvidence"], b"\x0a" + varint(len(evidence)) + evidence))

    assert "body" in found or "evidence_package.metadata" in found


GOOD_IN_PART = {
    "SignEvidenceBatch",
    "ListWorkflows",
    "HealthCheck",
    "PlaceHold",
    "ListErasures",
    "ListHolds",
    "RunRetention",
    "ListAuditEvents",
    "ExportAuditRows",
    "ExportAuditSeals",
}
"""What is left of such a request may be a good one."""


@pytest.mark.parametrize("name", [name for name, method in BUILT.items() if method.request.fields])
async def test_truncated_and_garbled_messages_are_refused(channel: grpc.aio.Channel, name: str) -> None:
    value = request(name)
    for holder in (value, value.get("request", {}), *value.get("evidence_packages", [])):
        if "evidence_package" in holder:
            holder["evidence_package"]["spec_version"] = "9"  # whatever is left, it is not signed
    if name == "SignEvidenceBatch":
        value["evidence_packages"] = [package(event_type="")] * 2
    whole = message(BUILT[name], value).SerializeToString()
    cuts = sorted({*range(1, min(len(whole), 12)), *range(12, len(whole), max(1, len(whole) // 12)), len(whole) - 1})
    for cut in cuts:
        if name in GOOD_IN_PART:
            answer = await call(channel, BUILT[name], whole[:cut] + b"\xff")
        else:
            answer = await call(channel, BUILT[name], whole[:cut])
        if isinstance(answer, bytes):
            # A query for a timestamp that is refused is answered too, in the authority's words.
            assert name in ("SearchEvidence", "ExportEvidence", "CreateTimestamp") or b"INVALID_ARGUMENT" in answer, (
                cut,
                answer,
            )
        else:
            assert isinstance(answer, (InvalidArgument, NotFound)), (cut, answer)
    for garbage in (b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x0b", b"\x0a" * 1000):
        assert refused(await call(channel, BUILT[name], garbage))


@pytest.mark.parametrize("name", ["SignEvidence", "ValidateEvidence", "GetEvidence", "GetReceipt", "RevokeKey"])
async def test_an_empty_message_is_told_what_it_lacks(channel: grpc.aio.Channel, name: str) -> None:
    first = BUILT[name].request.fields[0].name

    assert first in refused(await call(channel, BUILT[name], b""))


async def test_a_message_over_the_limit_is_refused(channel: grpc.aio.Channel) -> None:
    data = b"\x0a" + varint(21 * 1024 * 1024) + b"x" * 21 * 1024 * 1024

    error = await call(channel, BUILT["SignEvidence"], data)

    assert isinstance(error, ResourceExhausted)


async def test_a_method_that_there_is_not_is_said_to_be_unknown(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary("/afdp.notary.v1.NotaryService/Nonsense")(b"", timeout=TIMEOUT)

    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
