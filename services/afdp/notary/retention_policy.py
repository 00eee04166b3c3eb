"""The file that `AFDP_RETENTION` names: which evidence is kept for how long. Strict in every name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from afdp.config import SettingsError
from afdp.errors import FailedPrecondition
from afdp.messages.metadata import RetentionClass
from afdp.notary.access.labels import Labels
from afdp.notary.model import Order
from afdp.settings_file import parse_settings_file, read_settings_file

FOR_EVER = "indefinite"

_SETTING = "AFDP_RETENTION"
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

    @model_validator(mode="after")
    def _classes_are_there_and_long_enough(self) -> Self:
        named = [rule.retention for rule in self.rules] + ([self.default] if self.default else [])
        if unknown := sorted(set(named) - set(self.classes)):
            raise ValueError(f"there is no class {unknown[0]}")
        for name, period in self.classes.items():
            if period.length < self.minimum.length:
                raise ValueError(f"classes.{name} is shorter than the minimum")
        return self


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
            data = read_settings_file(path, _SETTING)
            return cls(parse_settings_file(_File, data, str(path), _SETTING), labels)
        except SettingsError as error:
            raise FailedPrecondition(str(error)) from None

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
