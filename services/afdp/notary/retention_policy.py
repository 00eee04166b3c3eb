"""The file that `AFDP_RETENTION` names: which evidence is kept for how long. Strict in every name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from afdp.errors import FailedPrecondition
from afdp.messages.metadata import RetentionClass
from afdp.notary.access.labels import Labels
from afdp.notary.model import Order

FOR_EVER = "indefinite"

_MAX_BYTES = 1024 * 1024
_PERIOD = re.compile(r"([1-9][0-9]{0,4}) (year|month|day)s?")


@dataclass(frozen=True, slots=True)
class Period:
    """How long evidence is kept; without years, months and days: for ever."""

    years: int = 0
    months: int = 0
    days: int = 0

    @property
    def length(self) -> float:
        """In days, near enough to say which of two is longer."""
        return (365.25 * self.years + 30.4375 * self.months + self.days) or float("inf")

    @classmethod
    def parse(cls, text: object) -> Period:
        """A period such as `7 years`, `6 months`, `90 days` or `indefinite`."""
        if isinstance(text, Period):
            return text
        if text == FOR_EVER:
            return cls()
        found = _PERIOD.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError("must be such as 7 years, 6 months, 90 days or indefinite")
        return cls(**{f"{found[2]}s": int(found[1])})


Text = Annotated[str, Field(min_length=1, max_length=256)]
PeriodText = Annotated[Period, BeforeValidator(Period.parse)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Rule(_Strict):
    retention: Text = Field(alias="class")
    tenant: Text = "*"
    event_type: Text = "*"
    classification: Text | None = None


class _File(_Strict):
    classes: Mapping[Text, PeriodText] = {}
    rules: tuple[_Rule, ...] = ()
    default: Text | None = None
    minimum: PeriodText = Period(days=1)


class RetentionPolicy:
    """Says the class of what is notarised. Of the rules that match, the one counts that keeps it the longest."""

    def __init__(self, file: _File, labels: Labels) -> None:
        self._file = file
        self._labels = labels
        self._asks_for_labels = any(rule.classification for rule in file.rules)

    @classmethod
    def read(cls, path: Path | None, labels: Labels) -> RetentionPolicy:
        """The policy of a file; none: nothing has a class, so that everything is kept.

        Raises:
            FailedPrecondition: it cannot be read, or is wrong; says where.
        """
        if path is None:
            return cls(_File(), labels)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"has more than {_MAX_BYTES:,} bytes")
            file = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
            _check(file)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise FailedPrecondition(f"AFDP_RETENTION: {path}: {_why(error)}") from None
        return cls(file, labels)

    @property
    def classes(self) -> list[RetentionClass]:
        """All classes, with how long each is kept."""
        return [RetentionClass(name, p.years, p.months, p.days) for name, p in sorted(self._file.classes.items())]

    def class_of(self, order: Order) -> str:
        """The class of what an order notarises; empty: it has none. What the notary itself certifies has none."""
        if not self._file.classes or order.principal.submitter.method == "service":
            return ""
        package, tenant = order.evidence.package, order.principal.tenant
        label = None
        if self._asks_for_labels:
            label = self._labels.of(package.event_type, package.metadata or {}).classification
        names = [
            rule.retention
            for rule in self._file.rules
            if fnmatchcase(tenant, rule.tenant)
            and fnmatchcase(package.event_type, rule.event_type)
            and (rule.classification is None or rule.classification == label)
        ]
        return max(names, key=lambda name: self._file.classes[name].length, default=self._file.default or "")


def _check(file: _File) -> None:
    named = [rule.retention for rule in file.rules] + ([file.default] if file.default else [])
    if unknown := sorted(set(named) - set(file.classes)):
        raise ValueError(f"there is no class {unknown[0]}")
    for name, period in file.classes.items():
        if period.length < file.minimum.length:
            raise ValueError(f"classes.{name} is shorter than the minimum")


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    return str(error)
