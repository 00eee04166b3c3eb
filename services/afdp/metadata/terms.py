"""Terms: what search finds a record by beside its columns, as bytes that do not say what they stand for.

A term is made of a tenant, of what kind it is and of a value, by `term` and nothing else: whoever asks for a value
makes the same term of it, and two tenants never share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b, sha256

import orjson

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.canonical import canonical_json
from afdp.metadata.values import Draft, Search

TERM_BYTES = 16
MAX_VALUE_BYTES = 1024
"""Of UTF-8: what is longer is not searched for by equality."""

_MAX_ELEMENTS = 64  # of a list, that count
_SUBMITTER, _METADATA = "submitter", "metadata"


class Terms:
    """The terms of records and of questions."""

    def __init__(self, paths: Sequence[str] = ()) -> None:
        """`paths`: the places in metadata that are searchable, dotted."""
        self._paths = {path: tuple(path.split(".")) for path in paths}

    def of(self, draft: Draft) -> list[bytes]:
        """All terms that a record is found by, each once."""
        found = [term(draft.submitter.tenant, _SUBMITTER, draft.submitter.subject)]
        found += draft.seal.terms if draft.seal else self.of_metadata(draft)
        return list(dict.fromkeys(found))

    def of_metadata(self, draft: Draft) -> list[bytes]:
        """Those of a draft's metadata."""
        tenant = draft.submitter.tenant
        values = self._values(draft.evidence) if self._paths else ()
        return list(dict.fromkeys(term(tenant, _METADATA, path, value) for path, value in values))

    def asked(self, query: Search) -> list[bytes]:
        """The terms that what is looked for must have, all of them."""
        found = [*self.asked_of_metadata(query), *query.terms]
        if query.submitter is not None:
            found.append(term(query.tenant, _SUBMITTER, query.submitter))
        return list(dict.fromkeys(found))

    def asked_of_metadata(self, query: Search) -> list[bytes]:
        """Those of places in metadata."""
        return [term(query.tenant, _METADATA, path, value) for path, value in query.metadata]

    def require_searchable(self, query: Search) -> None:
        """Refuses a question about a place in metadata that nobody can be asked about.

        Raises:
            InvalidArgument: it names each.
        """
        known = f"one of {', '.join(sorted(self._paths))}" if self._paths else "none: AFDP_SEARCHABLE_METADATA is empty"
        faults = [
            FieldViolation(f"metadata[{index}]", f"asks for a path that is not searchable here; searchable: {known}")
            for index, (path, _) in enumerate(query.metadata)
            if path not in self._paths
        ]
        if faults:
            raise InvalidArgument("the request is not valid", fields=faults)

    def _values(self, evidence: bytes) -> Iterator[tuple[str, str]]:
        try:
            package = orjson.loads(evidence)
        except orjson.JSONDecodeError:  # no evidence package: there is nothing to find it by
            return
        metadata = package.get("metadata") if isinstance(package, Mapping) else None
        for path, names in self._paths.items():
            for value in _texts(_at(metadata, names)):
                yield path, value


def term(tenant: str, kind: str, *parts: str) -> bytes:
    """The term, 16 bytes: a hash keyed by the tenant over the kind and the parts, each told apart from the next."""
    plain = b"".join(len(each).to_bytes(4, "big") + each for each in map(str.encode, (kind, *parts)))
    return blake2b(plain, digest_size=TERM_BYTES, key=_key(tenant), person=b"afdp search term").digest()


@lru_cache(maxsize=1024)
def _key(tenant: str) -> bytes:
    return sha256(tenant.encode()).digest()


def _at(value: object, names: Sequence[str]) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _texts(value: object) -> Iterator[str]:
    """The value as the evidence has it, without quotes; of a list, each element's."""
    for each in value[:_MAX_ELEMENTS] if isinstance(value, list) else (value,):
        if isinstance(each, (str, bool, int, float)):
            text = each if isinstance(each, str) else _written(each)
            if len(text) <= MAX_VALUE_BYTES and len(text.encode()) <= MAX_VALUE_BYTES:
                yield text


def _written(value: float) -> str:
    """A number or truth value as RFC 8785 writes it."""
    return str(value) if type(value) is int else canonical_json(value).decode()
