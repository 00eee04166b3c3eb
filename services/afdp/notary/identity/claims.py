"""Finding claims in a token, and conditions that they must meet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Claims = Mapping[str, object]

_MOST_VALUES = 256
_LONGEST_VALUE = 256


@dataclass(frozen=True, slots=True)
class ClaimPath:
    """Where a claim stands.

    Attributes:
        steps: the names to follow, from the outermost object.
    """

    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> ClaimPath:
        """Reads `realm_access.roles`, the JSON Pointer `/kubernetes.io/namespace`, or a whole name with `://` in it.

        Raises:
            ValueError: it is none of them.
        """
        if "://" in text:
            steps = [text]
        elif text.startswith("/"):  # RFC 6901, section 4
            steps = [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]
        else:
            steps = text.split(".")
        if not all(steps) or len(steps) > 8:
            raise ValueError("must name a claim: realm_access.roles, or /kubernetes.io/namespace where names have dots")
        return cls(tuple(steps))

    def find(self, claims: Claims) -> object:
        """The claim's value; None where there is none."""
        value: object = claims
        for step in self.steps:
            if not isinstance(value, Mapping):
                return None
            value = value.get(step)
        return value


def texts(value: object) -> tuple[str, ...]:
    """A claim's words: of a string or a list of them, of a number or a truth value as JSON writes it, else none.

    Raises:
        ValueError: there are more than 256, or one is longer than that.
    """
    values = value if isinstance(value, list) else [value]
    if len(values) > _MOST_VALUES:
        raise ValueError("too many values")
    found = tuple(_text(each) for each in values)
    if any(len(each) > _LONGEST_VALUE for each in found):
        raise ValueError("a value is too long")
    return tuple(each for each in found if each)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and value.isprintable() else ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text in which `*` stands for anything within one part, and `**` for anything.

    Parts end at `/` and `:`, in the names of hosts at `.`; so that `repo:acme/*:ref` matches no text with more parts.
    """

    expression: re.Pattern[str]

    @classmethod
    def parse(cls, text: str, *, ends: str = "/:") -> Pattern:
        """Reads a pattern.

        Args:
            text: the pattern.
            ends: the characters that end a part.

        Raises:
            ValueError: it is empty or has too many stars to be matched at once.
        """
        if not text or text.count("*") > 16:
            raise ValueError("must be some text with at most 16 stars in it")
        within = f"[^{re.escape(ends)}]*"
        pieces = [".*" if piece == "**" else within if piece == "*" else re.escape(piece) for piece in _split(text)]
        return cls(re.compile("".join(pieces), re.DOTALL))

    def matches(self, text: str) -> bool:
        """Whether all of a text is as the pattern says."""
        return self.expression.fullmatch(text) is not None


def _split(text: str) -> list[str]:
    return re.findall(r"\*\*|\*|[^*]+", text)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold of a token's claims: each of them has a value that matches one of its patterns."""

    patterns: tuple[tuple[ClaimPath, tuple[Pattern, ...]], ...]

    def hold(self, claims: Claims) -> bool:
        """Whether all of them hold.

        Raises:
            ValueError: a claim has too many values, or one is too long.
        """
        return all(
            any(pattern.matches(text) for text in texts(path.find(claims)) for pattern in patterns)
            for path, patterns in self.patterns
        )
