"""The bridge codec against upb itself."""

import string
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.errors import InvalidArgument
from afdp.messages.notary import Artifact, EvidencePackage, SignEvidenceRequest
from afdp.rpc.codec import WireStruct, decoder, encoder, plain
from afdp.rpc.descriptors import method, pool, service_methods

SERVICES = ["notary.v1.Notary", "signer.v1.Signer", "transparency.v1.Transparency", "metadata.v1.Metadata"]
TYPES = sorted(
    {
        kind.full_name
        for name in SERVICES
        for each in service_methods(f"afdp.{name}Service")
        for kind in (each.request, each.response)
    }
)
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def values(field: Any) -> st.SearchStrategy[Any]:
    kinds = {
        field.TYPE_STRING: TEXT,
        field.TYPE_BYTES: st.binary(max_size=40),
        field.TYPE_BOOL: st.booleans(),
        field.TYPE_DOUBLE: st.floats(allow_nan=False),
        field.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        field.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        field.TYPE_SINT64: st.integers(-(2**63), 2**63 - 1),
        field.TYPE_UINT32: st.integers(0, 2**32 - 1),
        field.TYPE_UINT64: st.integers(0, 2**64 - 1),
        field.TYPE_ENUM: st.integers(0, 20),
    }
    return kinds[field.type]


@st.composite
def wire_messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Any:
    message = GetMessageClass(descriptor)()
    if descriptor.full_name == "google.protobuf.Timestamp":
        message.seconds = draw(st.integers(-62_135_596_800, 253_402_300_799))
        message.nanos = draw(st.integers(0, 999_999)) * 1000
        return message
    if descriptor.full_name == "google.protobuf.Struct":
        message.update(draw(st.dictionaries(TEXT, PLAIN, max_size=4)))
        return message
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is None:
            drawn = draw(st.lists(values(field), max_size=3) if field.is_repeated else values(field))
            if field.is_repeated:
                getattr(message, field.name).extend(drawn)
            else:
                setattr(message, field.name, drawn)
        elif depth < 4:
            if field.is_repeated:
                for inner in draw(st.lists(wire_messages(field.message_type, depth + 1), max_size=2)):
                    getattr(message, field.name).append(inner)
            else:
                getattr(message, field.name).CopyFrom(draw(wire_messages(field.message_type, depth + 1)))
                getattr(message, field.name).SetInParent()
    return message


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_message_survives_the_way_in_and_out(data: st.DataObject) -> None:
    descriptor = pool().FindMessageTypeByName(data.draw(st.sampled_from(TYPES)))
    sent = data.draw(wire_messages(descriptor))

    back = encoder(descriptor)(decoder(descriptor, strict=True)(sent.SerializeToString()))

    assert GetMessageClass(descriptor).FromString(back) == sent


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_an_invalid_argument_or_a_message(data: bytes) -> None:
    decode = decoder(method("/afdp.notary.v1.NotaryService/SignEvidence").request, strict=True)
    with suppress(InvalidArgument):
        assert isinstance(decode(data), SignEvidenceRequest)


def sign_evidence() -> Descriptor:
    return pool().FindMessageTypeByName("afdp.notary.v1.SignEvidenceRequest")


def test_truncated_bytes_are_refused() -> None:
    package = EvidencePackage(spec_version="1.0.0", metadata=WireStruct.of({"a": "b" * 50}))
    data = encoder(sign_evidence())(SignEvidenceRequest(evidence_package=package))

    with pytest.raises(InvalidArgument, match="SignEvidenceRequest"):
        decoder(sign_evidence())(data[:-3])


def test_unknown_fields_are_refused_where_nothing_may_be_lost_and_passed_over_elsewhere() -> None:
    data = b"\xc2\x3e\x03abc"  # field 1000, "abc"

    with pytest.raises(InvalidArgument, match=r"body: has a field 1000, which .*SignEvidenceRequest has not"):
        decoder(sign_evidence(), strict=True)(data)
    assert isinstance(decoder(sign_evidence())(data), SignEvidenceRequest)


def test_an_unknown_field_is_refused_where_it_stands() -> None:
    wire = GetMessageClass(sign_evidence())()
    wire.evidence_package.metadata.update({"a": {"b": 1.0}})
    for _ in range(2):
        wire.evidence_package.artifacts.add(name="a")
    wire.evidence_package.artifacts[1].MergeFromString(b"\xc2\x3e\x03abc")
    wire.evidence_package.metadata.fields["a"].struct_value.fields["b"].MergeFromString(b"\xc2\x3e\x03abc")

    with pytest.raises(InvalidArgument) as refused:
        decoder(sign_evidence(), strict=True)(wire.SerializeToString())

    named = [violation.field for violation in refused.value.fields]
    assert named == ["evidence_package.artifacts[1]", "evidence_package.metadata"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b"TYPE", "evidence_package.event_type"),
        (b"NAME", "evidence_package.artifacts[1].name"),
        (b"MEMB", "evidence_package.metadata"),
        (b"TEXT", "evidence_package.metadata"),
        (b"KEYS", "idempotency_key"),
    ],
)
def test_text_that_is_not_utf8_is_named(text: bytes, field: str) -> None:
    artifacts = [Artifact(name="ü"), Artifact(name="NAME")]
    metadata = WireStruct.of({"MEMB": [{"a": "TEXT"}]})
    package = EvidencePackage(event_type="TYPE", artifacts=artifacts, metadata=metadata)
    request = SignEvidenceRequest(evidence_package=package, idempotency_key="KEYS")
    data = encoder(sign_evidence())(request).replace(text, b"\xff\xfe\xfd\xfc")

    with pytest.raises(InvalidArgument) as refused:
        decoder(sign_evidence())(data)

    assert [(violation.field, violation.message) for violation in refused.value.fields] == [(field, "is not UTF-8")]


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(253_402_300_800, 0), (-62_135_596_801, 0), (0, 1), (0, -1), (0, 1_000_000_000)]
)
def test_a_timestamp_that_cannot_be_kept_exactly_is_named(seconds: int, nanos: int) -> None:
    wire = GetMessageClass(sign_evidence())()
    wire.evidence_package.timestamp_utc.seconds = seconds
    wire.evidence_package.timestamp_utc.nanos = nanos

    with pytest.raises(InvalidArgument) as refused:
        decoder(sign_evidence())(wire.SerializeToString())

    assert [violation.field for violation in refused.value.fields] == ["evidence_package.timestamp_utc"]


def test_the_last_microsecond_of_year_9999_is_kept() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    request = SignEvidenceRequest(evidence_package=EvidencePackage(timestamp_utc=last))

    back = decoder(sign_evidence())(encoder(sign_evidence())(request))

    assert back.evidence_package.timestamp_utc == last


def test_a_struct_is_plain_json_with_numbers_as_doubles() -> None:
    value = {"a": 1, "b": [True, None, "x", {"c": 0.5}], string.ascii_letters: {}}
    request = SignEvidenceRequest(evidence_package=EvidencePackage(metadata=WireStruct.of(value)))

    back = decoder(sign_evidence())(encoder(sign_evidence())(request))

    assert plain(back.evidence_package.metadata) == value
    assert isinstance(plain(back.evidence_package.metadata)["a"], float)
    assert back.evidence_package.metadata.fields["a"].number_value == 1.0
