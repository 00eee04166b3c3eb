"""Which method an HTTP request means: `google.api.http` path templates over the path as it was sent.

Matching works on the undecoded path, so that `%2F` inside a variable is no separator; what a variable caught is decoded
afterwards. RFC 3986, section 6.2.2.2: a percent-encoded unreserved character is the character itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from afdp.errors import InvalidArgument

Target = TypeVar("Target")


@dataclass(frozen=True, slots=True)
class Route(Generic[Target]):
    """One verb and template, and what they lead to."""

    verb: str
    template: str
    target: Target


@dataclass(frozen=True, slots=True)
class Matched(Generic[Target]):
    """The route of a request and its path variables: field path → value, still percent-encoded."""

    route: Route[Target]
    variables: Mapping[str, str]


class RouteTable(Generic[Target]):
    """Literal paths by look-up, templates by pattern; a literal hides a variable that would catch it, for all verbs."""

    def __init__(self, routes: Iterable[Route[Target]]) -> None:
        self._literal: dict[str, dict[str, Route[Target]]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route[Target]]]] = {}
        for route in routes:
            if "{" in route.template:
                _, by_verb = self._patterns.setdefault(route.template, (template_pattern(route.template), {}))
            else:
                by_verb = self._literal.setdefault(route.template, {})
            if route.verb in by_verb:
                raise ValueError(f"{route.verb} {route.template} is bound twice")
            by_verb[route.verb] = route
        # Of two templates that match, the one with more literal text says more.
        ordered = sorted(self._patterns.values(), key=lambda entry: -len(re.sub(r"\(.*?\)", "", entry[0].pattern)))
        self._ordered = tuple(ordered)

    def match(self, verb: str, raw_path: str) -> Matched[Target] | None:
        """The route of a request, if there is one. HEAD is GET without the body (RFC 9110, section 9.3.2)."""
        if verb == "HEAD":
            verb = "GET"
        if "%" in raw_path:
            raw_path = _normalised(raw_path)
        if (by_literal := self._literal.get(raw_path)) is not None:
            return Matched(by_literal[verb], {}) if verb in by_literal else None
        for pattern, by_verb in self._ordered:
            if verb in by_verb and (found := pattern.fullmatch(raw_path)):
                return Matched(by_verb[verb], found.groupdict())
        return None

    def allowed(self, raw_path: str) -> tuple[str, ...]:
        """The verbs that the path is known under, for `Allow`; none if the path is unknown."""
        raw_path = _normalised(raw_path)
        verbs = set(self._literal.get(raw_path, ()))
        if not verbs:
            verbs.update(*(by_verb for pattern, by_verb in self._ordered if pattern.fullmatch(raw_path)))
        return tuple(sorted(verbs | ({"HEAD"} if "GET" in verbs else set())))


def template_pattern(template: str) -> re.Pattern[str]:
    """The pattern of a path template: `{name}` is one segment; `{name=a/*}` and `**` are as `google.api.http` says."""
    parts: list[str] = []
    for literal, name, pattern in _PIECES.findall(template):
        if literal:
            parts.append(_segments(literal))
        else:
            parts.append(f"(?P<{name}>{_segments(pattern or '*')})")
    return re.compile("".join(parts))


def template_variables(template: str) -> tuple[str, ...]:
    """The field paths that a template fills."""
    return tuple(name for _, name, _ in _PIECES.findall(template) if name)


def decoded(name: str, segment: str) -> str:
    """A path variable's or query string's value, percent-decoded.

    Raises:
        InvalidArgument: names the field of a value that is not UTF-8 or has U+0000.
    """
    if "%" not in segment:
        return segment
    if _BROKEN_ESCAPE.search(segment):
        raise InvalidArgument.field(name, "has a % that no two hex digits follow")
    try:
        text = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument.field(name, "is not UTF-8 after percent-decoding") from error
    if "\0" in text:
        raise InvalidArgument.field(name, "must not contain U+0000")
    return text


_PIECES = re.compile(r"([^{}]+)|\{(\w+)(?:=([^{}]+))?\}")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED_ESCAPE = re.compile(r"%(2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])")


def _normalised(raw_path: str) -> str:
    return _UNRESERVED_ESCAPE.sub(lambda found: chr(int(found[1], 16)), raw_path)


def _segments(pattern: str) -> str:
    pieces = re.split(r"(\*\*|\*)", pattern)
    return "".join({"*": "[^/]+", "**": ".+"}.get(piece, re.escape(piece)) for piece in pieces)
