"""Errors on the wire of gRPC."""

from __future__ import annotations

import pytest

from afdp.errors import FieldViolation, InvalidArgument, NotaryError, ResourceExhausted
from afdp.rpc.status import DETAILS_KEY, from_details, to_status


def carried(error: NotaryError) -> NotaryError:
    _, message, trailing = to_status(error, "an-id")
    details = dict(trailing)[DETAILS_KEY]
    assert isinstance(details, bytes)
    return from_details(details, type(error), message)


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument.field("a.b[0]", "must not be: empty; really"),
        InvalidArgument("not valid", fields=[FieldViolation(f"f{number}", "is bad") for number in range(7)]),
        ResourceExhausted("full", retry_after=1.5, metadata={"limit": "4"}),
    ],
)
def test_an_error_comes_back_as_it_was(error: NotaryError) -> None:
    back = carried(error)

    assert type(back) is type(error)
    assert (back.message, back.fields, back.retry_after, back.metadata) == (
        *(error.message, error.fields, error.retry_after, error.metadata),
    )


def test_the_message_alone_names_the_first_fields() -> None:
    fields = [FieldViolation(f"artifacts[{number}].name", "must not be empty") for number in range(5)]

    _, message, _ = to_status(InvalidArgument("not valid", fields=fields))

    assert message == "not valid: " + "; ".join(f"artifacts[{n}].name: must not be empty" for n in range(3))


def test_an_error_of_a_thousand_fields_fits_in_the_metadata_that_any_client_takes() -> None:
    fields = [FieldViolation(f"artifacts[{number}].name", "x" * 300) for number in range(1000)]

    _, message, trailing = to_status(InvalidArgument("not valid", fields=fields))

    assert len(message) + sum(len(key) + len(value) for key, value in trailing) < 8192
    assert carried(InvalidArgument("not valid", fields=fields)).fields == tuple(fields[:6])
