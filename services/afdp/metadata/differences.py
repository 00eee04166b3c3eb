"""Where evidence differs from what stands under its idempotency key: fields by name, never a value of the old one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from afdp.errors import AlreadyExists, FieldViolation, InvalidArgument
from afdp.formats.canonical import member_path, strict_json
from afdp.metadata.values import Asked, Draft, KeyTaken

MOST_NAMED = 32
_WHERE = "evidence_package"


def say_what_differs(taken: KeyTaken, draft: Draft | Asked) -> AlreadyExists:
    """The refusal, with the fields that differ; without any where the old evidence cannot be read."""
    if taken.before is None or taken.before.draft.evidence_hash == draft.evidence_hash:
        return AlreadyExists(taken.message)
    try:
        before, now = (strict_json(each.evidence, integers_as_doubles=True) for each in (taken.before.draft, draft))
    except InvalidArgument:
        return AlreadyExists(taken.message)
    return AlreadyExists(taken.message, fields=list(islice(_differences(before, now, _WHERE), MOST_NAMED)))


def _differences(before: object, now: object, path: str) -> Iterator[FieldViolation]:
    """One per member of `now`; members that only `before` has are told by their parent, for their names are values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name, value in now.items():
            where = member_path(path, name)
            if name in before:
                yield from _differences(before[name], value, where)
            else:
                yield FieldViolation(where, "was not there")
        if before.keys() - now.keys():
            yield FieldViolation(path, "had more members")
    elif isinstance(before, list) and isinstance(now, list):
        for index, (old, new) in enumerate(zip(before, now, strict=False)):
            yield from _differences(old, new, f"{path}[{index}]")
        if len(before) != len(now):
            yield FieldViolation(path, "had another number of elements")
    elif before != now or isinstance(before, bool) is not isinstance(now, bool):
        yield FieldViolation(path, "was another")
