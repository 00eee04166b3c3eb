"""The error of one item in a batch, as a message and back."""

from afdp.errors import BY_CODE, FieldViolation, Internal, NotaryError
from afdp.messages.common import FieldError, ItemError


def to_item(error: NotaryError) -> ItemError:
    """The error as a message."""
    return ItemError(
        code=error.code,
        detail=error.message,
        errors=[FieldError(field=f.field, message=f.message) for f in error.fields],
        retry_after=error.retry_after or 0.0,
    )


def from_item(item: ItemError) -> NotaryError:
    """The message as an error; a code that is not known is INTERNAL."""
    kind = BY_CODE.get(item.code, Internal)
    fields = [FieldViolation(f.field, f.message) for f in item.errors]
    return kind(item.detail, fields=fields, retry_after=item.retry_after or None)
