"""Writes the table of docs/access.md from protos and built-in policies; `--check` says whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from afdp.gateway.descriptors import load_api
from afdp.policy.cedar import PolicySet
from afdp.policy.facts import AUTHENTICATED, Circumstances, Deployment, Question, Subject
from afdp.policy.sources import BUILT_IN, read
from afdp.rpc.descriptors import Method, service_methods

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "access.md"
BEGIN, END = "<!-- from here: tools/access.py -->\n", "<!-- to here -->\n"

READ, WRITE = "afdp.notary.read", "afdp.notary.write"
OPERATOR, OTHER = "default", "acme"


def _token(*roles: str, scopes: tuple[str, ...] = (READ, WRITE), tenant: str = OPERATOR) -> Subject:
    return Subject(tenant, frozenset(roles), frozenset(scopes))


CALLERS = {
    "nobody": None,
    "ai_engineer": _token("ai_engineer"),
    "security_analyst": _token("security_analyst"),
    "admin": _token("admin"),
    "admin, scope read": _token("admin", scopes=(READ,)),
    "admin, scope write": _token("admin", scopes=(WRITE,)),
    "no role": _token(),
    "admin of another tenant": _token("admin", tenant=OTHER),
    "certificate, ai_engineer": Subject(OPERATOR, frozenset({"ai_engineer"}), method="mtls", credential="certificate"),
}
"""Each column of the table; those without more said have both scopes, and are of the operator's tenant."""

YES, UNKNOWN, DENIED = "✓", "401", "403"


def table() -> Iterator[str]:
    """The table's lines."""
    policies = PolicySet(read([BUILT_IN]), Deployment(operators=frozenset({OPERATOR})))
    paths = {
        method.name: "<br>".join(f"`{rule.verb} {rule.template}`" for rule in method.rules)
        for method in load_api().methods
    }
    yield f"| RPC | REST | permission | {' | '.join(CALLERS)} |"
    yield "|---" * 3 + "|:-:" * len(CALLERS) + "|"
    for method in service_methods("afdp.notary.v1.NotaryService"):
        cells = [_cell(policies, method, who) for who in CALLERS.values()]
        permission = f"`{method.permission}`" if method.permission else "none"
        yield f"| {method.name} | {paths.get(method.name, '–')} | {permission} | {' | '.join(cells)} |"


def _cell(policies: PolicySet, method: Method, who: Subject | None) -> str:
    if not method.permission:
        return YES
    if who is None:
        return UNKNOWN
    if method.permission == AUTHENTICATED:
        return YES
    question = Question(who, method.permission, None, Circumstances(datetime.now(UTC), method.name))
    return YES if policies.decide(question).allowed else DENIED


def written(text: str) -> str:
    """The document with the table as it should be."""
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"{DOCUMENT.name} has lost the lines that the table stands between")
    return head + BEGIN + "\n".join(table()) + "\n" + END + tail


def main() -> None:
    """Writes, or with `--check` compares."""
    text = DOCUMENT.read_text()
    should = written(text)
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(should)
    elif text != should:
        raise SystemExit("the table of docs/access.md is not what protos and policies give: make docs")


if __name__ == "__main__":
    main()
