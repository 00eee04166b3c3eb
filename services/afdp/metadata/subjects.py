"""Subjects: whom or what evidence is about, so that it can be erased together."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from afdp.metadata.values import Draft

OWN = "*"
"""The tenant's own: what is about nobody in particular."""

_SERVICE = "service"  # the method of what the notary notarises itself, which nobody is to be able to erase


class Subjects:
    """Tells a record's subject: its actor, `actor_type:id`, or what stands at a place in the evidence."""

    def __init__(self, path: str = "") -> None:
        """`path`: dotted, from the top of the package, such as `metadata.patient_id`; empty: the actor."""
        self._names = tuple(path.split(".")) if path else ()

    def of(self, draft: Draft) -> str:
        """The subject; `*` where there is none, and for what the notary itself submits."""
        if draft.submitter.method == _SERVICE:
            return OWN
        if not self._names:
            return f"{draft.terms.actor_type}:{draft.terms.actor_id}"
        try:
            value = orjson.loads(draft.evidence)
        except orjson.JSONDecodeError:
            return OWN
        for name in self._names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return _text(value) or OWN


def _text(value: object) -> str:
    if type(value) is int:  # which a truth value is not
        return str(value)
    return value if isinstance(value, str) else ""
