"""Policies, ready to be asked. Cedar denies by default, and what one policy forbids no other can permit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cedarpy
import orjson

from afdp.policy.facts import Deployment, Question
from afdp.policy.sources import Fault, Policy, PolicyError, Sources


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided.

    Attributes:
        allowed: whether.
        policies: the names of the policies that decided: those that forbid, else those that permit; none: no policy
            permits it.
        errors: what could not be evaluated; it then is not allowed.
    """

    allowed: bool
    policies: tuple[str, ...]
    errors: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why, in a few words, for the operator."""
        if self.errors:
            return "a policy could not be evaluated"
        if not self.policies:
            return "no policy permits it"
        return ("permitted by " if self.allowed else "forbidden by ") + ", ".join(self.policies)


@dataclass(frozen=True, slots=True)
class Named:
    """A policy with what it says of itself.

    Attributes:
        name: of its `@id`.
        effect: `permit` or `forbid`.
        attributes: the names of all attributes that it asks for, of whatever.
    """

    policy: Policy
    name: str
    effect: str
    attributes: frozenset[str]


class PolicySet:
    """Policies that were read once, and found to fit their schema."""

    def __init__(self, sources: Sources, deployment: Deployment) -> None:
        """Raises PolicyError, naming every fault with its file and line."""
        self.hash = sources.hash
        self.policies = _named(sources)
        self.attributes = frozenset[str]().union(*(each.attributes for each in self.policies))
        self._deployment = deployment
        self._schema = cedarpy.Schema.from_str(sources.schema)
        _validate(self.policies, self._schema)
        self._parsed = cedarpy.PolicySet.from_str("\n".join(each.policy.text for each in self.policies))

    def decide(self, question: Question) -> Decision:
        """What all policies together say: some 100 µs of the processor."""
        return self._ask(self._parsed, question)

    def satisfied(self, question: Question) -> list[Named]:
        """Each policy whose conditions hold, be it that it decides or that another one outweighs it. For explaining."""
        return [each for each in self.policies if self._holds(each, question)]

    def _holds(self, named: Named, question: Question) -> bool:
        alone = named.policy.text
        if named.effect == "forbid":
            alone += "\npermit (principal, action, resource);"
        decision = self._ask(cedarpy.PolicySet.from_str(alone), question)
        return not decision.errors and decision.allowed == (named.effect == "permit")

    def _ask(self, policies: cedarpy.PolicySet, question: Question) -> Decision:
        request, entities = self._deployment.request(question)
        request["context"] = orjson.dumps(request["context"]).decode()
        found = cedarpy.is_authorized(request, policies, orjson.dumps(entities).decode(), self._schema)
        names = found.diagnostics.id_annotations_by_reason
        errors = tuple(found.diagnostics.errors)
        if found.decision == cedarpy.Decision.NoDecision and not errors:
            errors = ("the request does not fit the schema",)
        # Cedar leaves a policy out that it cannot evaluate: were it one that forbids, more would be allowed.
        return Decision(found.allowed and not errors, tuple(sorted(names.values())), errors)


def _named(sources: Sources) -> list[Named]:
    """Each policy, parsed by itself, so that what is wrong with it is told with its line."""
    faults: list[Fault] = []
    named: dict[str, Named] = {}
    for policy in sources.policies():
        try:
            each = _read(policy)
        except ValueError as error:
            faults.append(Fault(policy.file, policy.line, str(error)))
            continue
        if other := named.get(each.name):
            where = f"{other.policy.file}:{other.policy.line}"
            faults.append(Fault(policy.file, policy.line, f'@id("{each.name}") is that of the policy at {where} too'))
        named[each.name] = each
    if not named and not faults:
        faults.append(Fault(", ".join(name for name, _ in sources.texts), 0, "has no policy: everything is denied"))
    if faults:
        raise PolicyError(faults)
    return list(named.values())


def _read(policy: Policy) -> Named:
    parsed = json.loads(cedarpy.policies_to_json_str(policy.text))
    if parsed["templates"]:
        raise ValueError("is a template, and nothing fills its slots here")
    (found,) = parsed["staticPolicies"].values()
    name = (found.get("annotations") or {}).get("id")
    if not name:
        raise ValueError('has no name: write @id("…") before it')
    return Named(policy, name, found["effect"], frozenset(_attributes(found["conditions"])))


def _attributes(node: Any) -> Iterator[str]:
    """Names that an expression asks for with `.`, `has` and the like, in Cedar's JSON."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "attr":
                yield from [value] if isinstance(value, str) else value
            yield from _attributes(value)
    elif isinstance(node, list):
        for each in node:
            yield from _attributes(each)


def _validate(policies: Sequence[Named], schema: cedarpy.Schema) -> None:
    faults: list[Fault] = []
    for each in policies:
        for error in cedarpy.validate_policies(each.policy.text, schema).errors:
            message = error.error.replace("for policy `policy0`, ", "")
            faults.append(replace(Fault(each.policy.file, each.policy.line, ""), message=f"{each.name}: {message}"))
    if faults:
        raise PolicyError(list(dict.fromkeys(faults)))
