"""What fields and enum values are called in JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from google.protobuf.descriptor import EnumDescriptor, EnumValueDescriptor, FieldDescriptor

ALIASES: Mapping[str, str] = {"afdp.notary.v1.Actor.actor_type": "type"}
"""Names that clients use beside a field's own, by the field's full name."""


def spellings(field: FieldDescriptor) -> tuple[str, ...]:
    """Every key that a field is read by; its proto name, which it is written by, comes first."""
    names = [field.name, field.json_name, ALIASES.get(field.full_name, field.name)]
    return tuple(dict.fromkeys(names))


def enum_words(enum: EnumDescriptor) -> Iterator[tuple[EnumValueDescriptor, str]]:
    """Each value with its word: lower case, without the enumeration's name as prefix (`RECEIPT_STATE_`)."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    for value in enum.values:
        yield value, value.name.removeprefix(prefix).lower()
