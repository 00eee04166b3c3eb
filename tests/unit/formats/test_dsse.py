from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib import dsse as peer

from afdp.errors import InvalidArgument
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope, EnvelopeSignature, pae

ENVELOPE = Envelope(IN_TOTO_PAYLOAD_TYPE, b"{}\xff\xfe\xfb", (EnvelopeSignature(b"\xfb\xef\xbe", "key-1"),))


def test_the_example_of_the_protocol_is_encoded_as_printed_there() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_lengths_are_counted_in_bytes() -> None:
    assert pae("é", "ü".encode()) == "DSSEv1 2 é 2 ü".encode()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20), st.binary(max_size=40))
def test_the_encoding_is_that_of_securesystemslib(payload_type: str, payload: bytes) -> None:
    assert pae(payload_type, payload) == peer.Envelope(payload, payload_type, {}).pae()


def test_an_envelope_is_read_back_as_it_was_written() -> None:
    assert Envelope.from_json(ENVELOPE.to_json()) == ENVELOPE
    assert "keyid" not in Envelope(ENVELOPE.payload_type, b"x", (EnvelopeSignature(b"s"),)).to_json().decode()


def test_url_safe_base64_is_read_as_the_protocol_allows() -> None:
    written = {
        "payload": urlsafe_b64encode(ENVELOPE.payload).decode(),
        "payloadType": ENVELOPE.payload_type,
        "signatures": [{"sig": urlsafe_b64encode(b"\xfb\xef\xbe").decode(), "keyid": "key-1"}],
    }

    assert Envelope.from_json(json.dumps(written)) == ENVELOPE


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payload": None}, "payload"),
        ({"payload": "e30"}, "payload"),
        ({"payload": "e30=\n"}, "payload"),
        ({"payload": "e31="}, "payload"),
        ({"payload": "-_+/"}, "payload"),
        ({"payload": "é"}, "payload"),
        ({"payloadType": ""}, "payloadType"),
        ({"payloadType": 1}, "payloadType"),
        ({"signatures": []}, "signatures"),
        ({"signatures": {}}, "signatures"),
        ({"signatures": [{"sig": ""}]}, "signatures[0].sig"),
        ({"signatures": [{"sig": "AA==", "keyid": 1}]}, "signatures[0].keyid"),
        ({"signatures": [{"sig": "AA=="}, {"keyid": "a"}]}, "signatures[1].sig"),
        ({"signatures": ["AA=="]}, "signatures[0]"),
        ({"signatures": [{"sig": "AA==", "cert": "x"}]}, "signatures[0].cert"),
        ({"extra": 1}, "extra"),
    ],
)
def test_an_envelope_that_is_not_exact_is_refused_by_field(change: dict[str, object], field: str) -> None:
    written = {
        "payload": b64encode(b"{}").decode(),
        "payloadType": IN_TOTO_PAYLOAD_TYPE,
        "signatures": [{"sig": "AA=="}],
        **change,
    }

    with pytest.raises(InvalidArgument) as caught:
        Envelope.from_object(written)

    assert [fault.field for fault in caught.value.fields] == [field]


def test_paths_start_where_the_caller_says_and_missing_members_are_all_named() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Envelope.from_object({}, path="bundle.dsseEnvelope")

    assert [fault.field for fault in caught.value.fields] == [
        "bundle.dsseEnvelope.payload",
        "bundle.dsseEnvelope.payloadType",
        "bundle.dsseEnvelope.signatures",
    ]


def test_a_duplicate_member_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="payload: the key stands twice"):
        Envelope.from_json('{"payload": "", "payload": "e30=", "payloadType": "t", "signatures": [{"sig": "AA=="}]}')
