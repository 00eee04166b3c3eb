"""What evidence says of itself that policies ask for: found in its metadata, where the settings say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from afdp.policy.facts import EvidenceFacts

METADATA = "metadata."
UNKNOWN = "?"
"""Stands for a label that is not known: nothing is called so, and what is not known ranks above all."""

_LONGEST = 64
"""Characters of a place. Decisions are remembered by labels, which callers choose: so they must be short."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Where evidence has its labels.

    Attributes:
        classifications: the names of all, lowest first, in lower case.
        classification, residency: paths in the evidence, such as `metadata.compliance.classification`.
    """

    classifications: tuple[str, ...]
    classification: Sequence[str]
    residency: Sequence[str]

    def of(self, event_type: str, metadata: Mapping[str, object]) -> EvidenceFacts:
        """The labels of a package; the highest, where more than one place has a classification."""
        levels = (self._known(each.lower()) for each in _texts(self.classification, metadata))
        residency = next(_texts(self.residency, metadata), "")
        return EvidenceFacts(
            event_type,
            max(levels, key=self._place, default=""),
            residency if len(residency) <= _LONGEST else UNKNOWN,
        )

    def of_canonical(self, evidence: bytes) -> EvidenceFacts:
        """The same of a package's canonical form, as it is on record; where that is erased, nothing is known."""
        if not evidence:
            return EvidenceFacts("", UNKNOWN, UNKNOWN)
        package = orjson.loads(evidence)
        return self.of(package["event_type"], package.get("metadata") or {})

    def _known(self, name: str) -> str:
        return name if name in self.classifications else UNKNOWN

    def _place(self, name: str) -> int:
        return self.classifications.index(name) if name in self.classifications else len(self.classifications)


def _texts(paths: Sequence[str], metadata: Mapping[str, object]) -> Iterator[str]:
    for path in paths:
        value: object = metadata
        for name in path.removeprefix(METADATA).split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None and value != "":
            yield value if isinstance(value, str) else UNKNOWN
