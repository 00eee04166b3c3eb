"""How answers are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from afdp.gateway.descriptors import Api
from afdp.gateway.encode import Readers, rfc3339

Encode = Callable[[Any], bytes]


def message(api: Api, name: str, **fields: Any) -> Any:
    return api.message_class(f"afdp.notary.v1.{name}")(**fields)


def test_what_is_empty_is_printed_too(api: Api, encode: Encode) -> None:
    assert orjson.loads(encode(message(api, "GetWorkflowStatusResponse"))) == {
        "workflow_id": "",
        "status": "unspecified",
        "created_at": None,
        "completed_at": None,
        "error_message": "",
        "result": None,
    }


def test_raw_json_stands_as_it_is_and_an_empty_one_is_null(api: Api, encode: Encode) -> None:
    bundle = b'{"b": 1.0,\n"a":[ ]}'
    printed = encode(message(api, "NotarizationReceipt", more_bundles=[bundle, bundle]))

    assert b'"bundle":null' in printed
    assert b'"more_bundles":[' + bundle + b"," + bundle + b"]" in printed


def test_whole_numbers_in_free_json_are_integers(api: Api, encode: Encode) -> None:
    answer = message(api, "GetWorkflowStatusResponse")
    answer.result.update({"log_index": 5, "share": 0.5, "big": 1e300, "list": [1, None, {"a": True}]})

    assert b'"log_index":5' in encode(answer)
    assert orjson.loads(encode(answer))["result"] == {
        "log_index": 5,
        "share": 0.5,
        "big": 1e300,
        "list": [1, None, {"a": True}],
    }


@pytest.mark.parametrize(
    ("number", "printed"), [(0, b"0"), (2**53 - 1, b"9007199254740991"), (2**53, b'"9007199254740992"')]
)
def test_an_int64_is_a_number_while_53_bits_hold_it(api: Api, encode: Encode, number: int, printed: bytes) -> None:
    assert b'"log_index":' + printed + b"," in encode(message(api, "NotarizationReceipt", log_index=number))


def test_a_state_of_a_later_version_is_printed_as_its_number(api: Api, encode: Encode) -> None:
    assert orjson.loads(encode(message(api, "NotarizationReceipt", state=9)))["state"] == 9


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (0, 0, "1970-01-01T00:00:00Z"),
        (1795493368, 120_000_000, "2026-11-24T04:09:28.120Z"),
        (1795493368, 123_456_000, "2026-11-24T04:09:28.123456Z"),
        (1795493368, 1, "2026-11-24T04:09:28.000000001Z"),
        (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
        (253_402_300_799, 999_000_000, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_timestamp_is_printed_as_proto3_json_does(seconds: int, nanos: int, text: str) -> None:
    assert rfc3339(seconds, nanos) == text


def test_what_no_json_number_can_say_is_a_word(everything: Any) -> None:
    read = Readers(frozenset()).message(everything.DESCRIPTOR)

    printed = read(everything(one_double=float("nan"), one_float=float("-inf"), many_double=[float("inf")]))

    assert (printed["one_double"], printed["one_float"], printed["many_double"]) == ("NaN", "-Infinity", ["Infinity"])
