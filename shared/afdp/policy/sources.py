"""Policy files: read, and cut into single policies that know where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

BUILT_IN = "builtin"
"""In place of a folder: the policies that come with the notary."""

SUFFIX = ".cedar"
_MOST_BYTES = 1024 * 1024  # of all files together


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a policy.

    Attributes:
        file: its name, as it was reached.
        line: where its policy begins, from 1; 0: it is about the file as a whole.
        message: what it is.
    """

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class PolicyError(Exception):
    """The policies cannot be used.

    Attributes:
        faults: every one that was found.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy as it is written.

    Attributes:
        file, line: where it begins, with its annotations.
        text: all of it, with the semicolon.
    """

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Sources:
    """All policy files, and the schema they are written for.

    Attributes:
        schema: Cedar's own notation.
        texts: each file's name and content, in the order of their names, folder by folder.
    """

    schema: str
    texts: tuple[tuple[str, str], ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 in hex over the schema and every file's content: the version of these policies."""
        digest = sha256()
        for text in (self.schema, *(text for _, text in self.texts)):
            digest.update(sha256(text.encode()).digest())
        return digest.hexdigest()

    def policies(self) -> Iterator[Policy]:
        """One after another."""
        for name, text in self.texts:
            yield from (Policy(name, line, policy) for line, policy in split(text))


def read(folders: Sequence[str]) -> Sources:
    """The policy files of all folders; `BUILT_IN` stands for those that come with the notary.

    Raises:
        PolicyError: a folder or file cannot be read, or there is none.
    """
    own = files("afdp.policy").joinpath("builtin")
    texts: list[tuple[str, str]] = []
    for folder in folders:
        if folder == BUILT_IN:
            texts += [
                (f"{BUILT_IN}/{each.name}", each.read_text("utf-8"))
                for each in sorted(own.iterdir(), key=lambda each: each.name)
                if each.name.endswith(SUFFIX)
            ]
        else:
            texts += _folder(Path(folder))
    if sum(len(text) for _, text in texts) > _MOST_BYTES:
        raise PolicyError([Fault(", ".join(folders), 0, f"has more than {_MOST_BYTES} bytes of policies")])
    return Sources(own.joinpath("notary.cedarschema").read_text("utf-8"), tuple(texts))


def _folder(folder: Path) -> list[tuple[str, str]]:
    try:
        found = sorted(each for each in folder.iterdir() if each.name.endswith(SUFFIX))
        if not found:
            raise PolicyError([Fault(str(folder), 0, f"has no *{SUFFIX} file")])
        return [(str(each), _text(each)) for each in found]
    except OSError as error:
        raise PolicyError([Fault(error.filename or str(folder), 0, error.strerror or "cannot be read")]) from None


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError:
        raise PolicyError([Fault(str(file), 0, "is not UTF-8")]) from None


def split(text: str) -> Iterator[tuple[int, str]]:
    """Each policy of a file with the line it begins on. Semicolons in strings and comments end none."""
    begin, at, quoted = -1, 0, False
    while at < len(text):
        char = text[at]
        if quoted:
            at += char == "\\"  # and whatever it escapes
            quoted = char != '"'
        elif text.startswith("//", at):
            at = _line_end(text, at)
            continue
        elif not char.isspace():
            begin = at if begin < 0 else begin
            quoted = char == '"'
            if char == ";":
                yield text.count("\n", 0, begin) + 1, text[begin : at + 1]
                begin = -1
        at += 1
    if begin >= 0:
        yield text.count("\n", 0, begin) + 1, text[begin:]


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found
