"""JSON in the one form that is hashed and signed (RFC 8785), and a reader that accepts nothing ambiguous.

>>> canonical_json({"b": 2.0, "a": True})
b'{"a":true,"b":2}'
>>> strict_json(b'{"a": [1, 2]}')
{'a': [1, 2]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, NoReturn

import orjson
import rfc8785

from afdp.errors import FieldViolation, InvalidArgument

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader agrees on (RFC 7493, section 2.2)."""

MAX_DEPTH = 32
"""How many arrays and objects may stand inside one another unless told otherwise; the outermost counts as one."""


def canonical_json(value: object) -> bytes:
    """The RFC 8785 form of a JSON value made of dict, list, tuple, str, int, float, bool and None.

    orjson writes the bytes; the numbers and keys that it treats in another way than RFC 8785 are handed to it ready.

    Raises:
        InvalidArgument: names the place of a float that is not finite, an integer beyond ±(2^53−1), a lone surrogate,
            a key that is not a string, a value of another type, or nesting over 200.
    """
    try:
        return orjson.dumps(_prepared(value), option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        rules = _Rules(_DEPTH_OF_THE_ENCODER, nul=True)
        raise _refusal(_faults(value, "", rules.max_depth, rules)) from error


def strict_json(data: bytes | str, *, max_depth: int = MAX_DEPTH, integers_as_doubles: bool = False) -> object:
    """A JSON text (RFC 8259, narrowed as RFC 7493 asks) as dict, list, str, int, float, bool and None.

    Refused: duplicate keys, NaN and Infinity, numbers that overflow a double, integer literals beyond ±(2^53−1),
    U+0000, lone surrogates, invalid UTF-8, a byte order mark, more than `max_depth` levels of nesting.

    With `integers_as_doubles` a larger integer literal is read as the double it stands for: RFC 8785 prints the double
    1e20 as such a literal, so canonical bytes are read this way.

    Raises:
        InvalidArgument: each fault with its path, such as `metadata.a.b[3]`; `body` where the whole text is at fault.
    """
    plain = _as_orjson_writes(data, max_depth)
    if plain is not None:
        return plain
    text = _decoded(data)
    rules = _Rules(max_depth, big_integers=integers_as_doubles)
    try:
        value: object = (_DOUBLES if integers_as_doubles else _STRICT).decode(text)
    except (ValueError, RecursionError):
        _explain(text, rules)
    if _SUSPECT_ESCAPE.search(text) or (text.count("{") + text.count("[") > max_depth and depth(value) > max_depth):
        faults = list(_faults(value, "", max_depth, rules))
        if faults:
            raise _refusal(faults)
    return value


def json_violations(value: object, path: str = "", *, max_depth: int = MAX_DEPTH) -> list[FieldViolation]:
    """What keeps a value in memory from being JSON by the rules of `strict_json`: up to 20 faults with their paths."""
    return list(islice(_faults(value, path, max_depth, _Rules(max_depth)), _MAX_FAULTS))


def depth(value: object) -> int:
    """How many arrays and objects stand inside one another: 0 for a scalar, 1 for `[]`."""
    levels = 0
    level = [value] if isinstance(value, (dict, list, tuple)) else []
    while level:
        levels += 1
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list, tuple))
        ]
    return levels


def member_path(parent: str, key: str) -> str:
    """The path of an object's member: `a.b`, or `a["b c"]` where the key would not read as one word."""
    if _WORD.fullmatch(key):
        return f"{parent}.{key}" if parent else key
    shown = key if len(key) <= _MAX_KEY_IN_PATH else key[: _MAX_KEY_IN_PATH - 1] + "…"
    return f"{parent}[{json.dumps(shown)}]"


# --- writing ----------------------------------------------------------------------------------------------------------

_AS_THEY_ARE = frozenset({str, bool, type(None)})
_DEPTH_OF_THE_ENCODER = 200  # orjson stops at 254 levels
_INTEGRAL = 2.0**53  # up to here every integral double is the integer it prints as
_DECIMAL_END = 1e21  # from here ECMAScript prints an exponent (RFC 8785, section 3.2.2.3), as orjson does
_SMALL = 1e-5  # under this orjson prints an exponent, ECMAScript only under 1e-6


def _prepared(value: object) -> object:
    """The value in a form for which orjson's bytes are those of RFC 8785."""
    if type(value) in _AS_THEY_ARE or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _prepared_object(value)
    if isinstance(value, float):
        return _prepared_float(value)
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _AS_THEY_ARE else _prepared(item) for item in value]
    if isinstance(value, int):
        if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            return value
        raise ValueError("an integer beyond ±(2^53−1)")
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _prepared_float(value: float) -> object:
    magnitude = abs(value)
    if magnitude <= _INTEGRAL:
        if value.is_integer():
            return int(value)
        if magnitude >= _SMALL:
            return float(value)
    elif _DECIMAL_END <= magnitude < float("inf"):
        return float(value)
    return orjson.Fragment(rfc8785.dumps(value))


def _prepared_object(members: dict[str, Any]) -> object:
    # orjson sorts by code point, RFC 8785 by UTF-16 code unit: they differ only where surrogate pairs come in.
    keys = "".join(members)
    if not keys.isascii() and max(keys) > "\uffff":
        return orjson.Fragment(rfc8785.dumps(members))
    return {key: item if type(item) in _AS_THEY_ARE else _prepared(item) for key, item in members.items()}


# --- reading ----------------------------------------------------------------------------------------------------------


def _decoded(data: bytes | str) -> str:
    try:
        if isinstance(data, str):
            text = data
            text.encode()
        else:
            text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument.field("body", f"not UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise InvalidArgument.field("body", f"a lone surrogate at character {error.start}") from error
    if text.startswith("\ufeff"):
        raise InvalidArgument.field("body", "starts with a byte order mark; send plain UTF-8")
    return text


def _as_orjson_writes(data: bytes | str, max_depth: int) -> object | None:
    """A text in just the bytes that orjson writes its value in, five times as fast; None: it is to be read with care.

    What comes out again byte for byte had no key twice and each number in one spelling. What orjson does not write by
    itself is as always: escapes by number are left to the careful reader, so are integers beyond 53 bits.
    """
    try:
        text = data if isinstance(data, bytes) else data.encode()
        if b"\\u" in text:
            return None
        value: object = orjson.loads(text)
        options = _INDENTED if text.startswith((b"{\n", b"[\n")) else orjson.OPT_STRICT_INTEGER
        if orjson.dumps(value, option=options) != text:
            return None
    except (ValueError, TypeError):  # not JSON, a lone surrogate, a large integer
        return None
    if text.count(b"{") + text.count(b"[") > max_depth and depth(value) > max_depth:
        return None
    return value


_INDENTED = orjson.OPT_STRICT_INTEGER | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _safe_integer(literal: str) -> int:
    if len(literal) > 17 or not -MAX_SAFE_INTEGER <= (value := int(literal)) <= MAX_SAFE_INTEGER:
        raise ValueError("an integer beyond ±(2^53−1)")
    return value


def _finite(literal: str) -> float:
    value = float(literal)
    if value - value != 0.0:
        raise ValueError("overflow")
    return value


def _no_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not JSON")


def _double(literal: str) -> int | float:
    value = _finite(literal)
    return int(literal) if abs(value) <= MAX_SAFE_INTEGER else value


def _decoder(parse_int: Callable[[str], int | float]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_unique, parse_int=parse_int, parse_float=_finite, parse_constant=_no_constant
    )


_STRICT = _decoder(_safe_integer)
_DOUBLES = _decoder(_double)
# Only an escape can bring in U+0000 or a surrogate: a raw control is refused, and UTF-8 has no surrogates.
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


# --- telling what is wrong --------------------------------------------------------------------------------------------

_MAX_FAULTS = 20
_MAX_KEY_IN_PATH = 64
_WORD = re.compile(r"[\w-]{1,64}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class _Members(list[tuple[str, object]]):
    """An object with its members as written, duplicates included."""


class _Literal(str):
    """A number as written."""

    __slots__ = ()


_FAITHFUL = json.JSONDecoder(
    object_pairs_hook=_Members, parse_int=_Literal, parse_float=_Literal, parse_constant=_Literal
)


class _Rules(NamedTuple):
    max_depth: int
    nul: bool = False
    big_integers: bool = False


def _explain(text: str, rules: _Rules) -> NoReturn:
    """Reads a refused text again, this time keeping what is wrong, and raises with the place of each fault."""
    try:
        value = _FAITHFUL.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidArgument.field("body", f"not JSON: {error.msg.removesuffix(' at')} at {where}") from error
    except RecursionError as error:
        raise InvalidArgument.field("body", _too_deep(rules)) from error
    raise _refusal(_faults(value, "", rules.max_depth, rules))


def _refusal(faults: Iterable[FieldViolation]) -> InvalidArgument:
    found = list(islice(faults, _MAX_FAULTS)) or [FieldViolation("body", "not JSON")]
    return InvalidArgument("the JSON is not valid", fields=found)


def _faults(value: object, path: str, room: int, rules: _Rules) -> Iterator[FieldViolation]:
    where = path or "body"
    if isinstance(value, _Literal):
        yield from _number_faults(value, where, rules)
    elif isinstance(value, str):
        yield from _string_faults(value, where, rules)
    elif isinstance(value, (dict, list, tuple)):
        if room == 0:
            yield FieldViolation(where, _too_deep(rules))
            return
        for child_path, child in _children(value, path, rules):
            if isinstance(child, FieldViolation):
                yield child
            else:
                yield from _faults(child, child_path, room - 1, rules)
    elif isinstance(value, float) and value - value != 0.0:
        yield FieldViolation(where, "must be a finite number")
    elif isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER:
        yield FieldViolation(where, _UNSAFE_INTEGER)
    elif not (value is None or isinstance(value, (int, float))):
        yield FieldViolation(where, f"{type(value).__name__} is not a JSON type")


def _children(value: dict[object, object] | Sequence[object], path: str, rules: _Rules) -> Iterator[tuple[str, object]]:
    """The paths and values of an array's or object's children; a faulty key comes as a violation."""
    if not isinstance(value, (dict, _Members)):
        yield from ((f"{path or 'body'}[{index}]", item) for index, item in enumerate(value))
        return
    seen: set[object] = set()
    for key, child in value.items() if isinstance(value, dict) else value:
        if not isinstance(key, str):
            yield path, FieldViolation(path or "body", f"a key is a {type(key).__name__}, must be a string")
            continue
        child_path = member_path(path, key)
        if key in seen:
            yield child_path, FieldViolation(child_path, "the key stands twice")
        seen.add(key)
        for fault in _string_faults(key, child_path, rules):
            yield child_path, FieldViolation(child_path, f"the key {fault.message}")
        yield child_path, child


def _number_faults(literal: str, where: str, rules: _Rules) -> Iterator[FieldViolation]:
    integer = literal.lstrip("-").isdigit()
    try:
        _safe_integer(literal) if integer and not rules.big_integers else _finite(literal)
    except ValueError:
        if literal in ("NaN", "Infinity", "-Infinity"):
            yield FieldViolation(where, f"{literal} is not JSON")
        elif integer and not rules.big_integers:
            yield FieldViolation(where, _UNSAFE_INTEGER)
        else:
            yield FieldViolation(where, "must be a finite number; this one overflows a double")


def _string_faults(value: str, where: str, rules: _Rules) -> Iterator[FieldViolation]:
    if not rules.nul and "\0" in value:
        yield FieldViolation(where, "must not contain U+0000")
    if _LONE_SURROGATE.search(value):
        yield FieldViolation(where, "must not contain a lone surrogate")


_UNSAFE_INTEGER = "must be between -(2^53-1) and 2^53-1; write a larger integer as a string"


def _too_deep(rules: _Rules) -> str:
    return f"nested more than {rules.max_depth} levels deep"
