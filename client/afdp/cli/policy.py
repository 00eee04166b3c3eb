"""`afdp policy`: what policies decide, tested by a table, and why. Offline: no service is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson

from afdp.cli.options import NOT_GOOD, Unreadable, json_option, moment
from afdp.cli.output import printable, say, say_json
from afdp.policy.cases import DEFAULT_CLASSIFICATIONS, DEFAULT_OPERATORS, CaseError, Table, read_table
from afdp.policy.cedar import Decision, Named, PolicySet
from afdp.policy.facts import Circumstances, Deployment, EvidenceFacts, Question, Subject
from afdp.policy.sources import BUILT_IN, PolicyError, read

_AUDIT = "afdp.audit"


def _parts(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


policies_option = click.option(
    "--policies",
    envvar="AFDP_POLICIES",
    metavar="DIR,…",
    callback=_parts,
    help=f"Folders of policies; `{BUILT_IN}` are those of the notary.  [env: AFDP_POLICIES]",
)


@click.command(short_help="Test policies with a table of cases.")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@policies_option
@json_option
def test(files: tuple[Path, ...], policies: tuple[str, ...] | None, as_json: bool) -> None:
    """Ask policies each question of tables in YAML, and compare what they decide with what is expected.

    Exit: 0 all as expected, 1 some are not, 2 a table or a policy cannot be read.
    """
    results = [(file, case, decision) for file in files for case, decision in _results(file, policies)]
    missed = sum(bool(case.missed(decision)) for _, case, decision in results)
    if as_json:
        shown = [
            {"file": str(file), "case": case.name, "good": not case.missed(decision), **_said(decision)}
            for file, case, decision in results
        ]
        say_json({"cases": shown, "missed": missed})
    else:
        for file, case, decision in results:
            _say_case(file, case.name, case.missed(decision), decision)
        say(f"{'FAILED' if missed else 'PASSED'}  {len(results) - missed} of {len(results)} cases", bold=True)
    if missed:
        raise click.exceptions.Exit(NOT_GOOD)


def _results(file: Path, policies: tuple[str, ...] | None) -> Iterator[tuple[Any, Decision]]:
    try:
        table: Table = read_table(file)
    except CaseError as error:
        raise Unreadable(str(error)) from None
    return table.results(_loaded(policies or table.policies, table.deployment))


def _say_case(file: Path, name: str, missed: str, decision: Decision) -> None:
    if missed:
        say(f"  ✗ {name}  ({file})", fg="red")
        say(f"      {missed}", fg="yellow")
    else:
        say(f"  ✓ {name}  {decision.reason}", fg="green")


@click.command(short_help="Say why policies allow or deny something.")
@click.option("--action", metavar="PERMISSION", help="What is to be done, such as evidence.create.")
@click.option("--tenant", default="default", show_default=True, help="Of the principal.")
@click.option("--role", "roles", multiple=True, metavar="ROLE")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="None: a credential without scopes.")
@click.option("--issuer", default="", metavar="URL")
@click.option("--subject", default="", metavar="NAME")
@click.option("--group", "groups", multiple=True, metavar="GROUP")
@click.option("--clearance", default="", metavar="NAME")
@click.option("--principal-residency", default="", metavar="REGION")
@click.option("--mfa", is_flag=True, help="It showed more than one factor.")
@click.option("--authenticated-at", type=moment, metavar="TIME")
@click.option("--event-type", metavar="TYPE", help="Of the evidence that it is about; none: it is about the tenant.")
@click.option("--classification", default="", metavar="NAME")
@click.option("--residency", default="", metavar="REGION")
@click.option("--address", default="", metavar="IP")
@click.option("--rpc", default="", metavar="METHOD")
@click.option("--time", type=moment, metavar="TIME", help="[default: now]")
@click.option("--region", envvar="AFDP_REGION", default="", metavar="REGION", help="Of the deployment.")
@click.option("--classifications", envvar="AFDP_CLASSIFICATIONS", callback=_parts, metavar="NAME,…")
@click.option("--operator-tenants", envvar="AFDP_OPERATOR_TENANTS", callback=_parts, metavar="TENANT,…")
@policies_option
@click.option("--request-id", metavar="ID", help="Explain what was decided of a request, from the audit log.")
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE", help="The audit log: the notary's log in JSON.")
@json_option
def explain(request_id: str | None, log: Path | None, as_json: bool, **asked: Any) -> None:
    """Say why policies allow or deny something: each policy whose conditions hold, and which of them decided.

    Give the question by options, or a request's ID and the log that has its decisions. Exit: 0 explained, 1 the log has
    nothing of that request, 2 the policies or the log cannot be read.
    """
    if (request_id is None) != (log is None):
        raise click.UsageError("--request-id and --log go together")
    if request_id is not None and log is not None:
        _explain_request(request_id, log, asked["policies"], as_json)
        return
    if not asked["action"]:
        raise click.UsageError("--action is missing: what is to be done, such as evidence.create")
    policies = _loaded(asked["policies"] or (BUILT_IN,), _deployment(asked))
    _explain_question(policies, _question(asked), as_json)


def _explain_question(policies: PolicySet, question: Question, as_json: bool) -> None:
    decision, holding = policies.decide(question), policies.satisfied(question)
    if as_json:
        held = [_shown(each, decided=each.name in decision.policies) for each in holding]
        say_json({**_said(decision), "policies": held, "policy_hash": policies.hash})
        return
    say(f"{'ALLOWED' if decision.allowed else 'DENIED'}  {question.action}: {decision.reason}", bold=True)
    for error in decision.errors:
        say(f"  ✗ {error}", fg="red")
    _say_policies(holding, decision.policies)


def _explain_request(request_id: str, log: Path, folders: tuple[str, ...] | None, as_json: bool) -> None:
    events = _events(log, request_id)
    if as_json:
        say_json({"request_id": request_id, "events": events})
    elif events:
        known = {each.name: each for each in _loaded(folders or (BUILT_IN,), Deployment()).policies}
        loaded = read(folders or (BUILT_IN,)).hash
        for event in events:
            _say_event(event, known, loaded)
    else:
        say(f"the log has nothing of {request_id}", fg="red")
    if not events:
        raise click.exceptions.Exit(NOT_GOOD)


def _events(log: Path, request_id: str) -> list[dict[str, Any]]:
    try:
        with log.open("rb") as lines:
            return [event for line in lines if (event := _event(line, request_id)) is not None]
    except OSError as error:
        raise Unreadable(f"{log}: {error.strerror}") from None


def _event(line: bytes, request_id: str) -> dict[str, Any] | None:
    if request_id.encode() not in line:
        return None
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None  # a log can hold lines of others
    known = isinstance(event, dict) and event.get("logger") == _AUDIT
    return event if known and request_id in (event.get("request_id"), event.get("last_request_id")) else None


def _say_event(event: dict[str, Any], known: dict[str, Named], loaded: str) -> None:
    word = {"allow": "ALLOWED", "deny": "DENIED"}.get(str(event.get("result")), "NOT DECIDED")
    rpc, permission = event.get("rpc") or event.get("last_rpc", ""), event.get("permission", "")
    say(f"{word}  {event.get('step', '')} of {rpc} {permission}".rstrip(), bold=True)
    for name in ("time", "subject", "issuer", "tenant", "address", "resource", "reason"):
        if event.get(name):
            say(f"  {name:<12} {printable(str(event[name]))}")
    if event.get("policy_hash") not in (None, loaded):
        say("  → decided by other policies than those at hand: give theirs with --policies", fg="yellow")
        return
    names = [str(each) for each in event.get("policies", ())]
    _say_policies([known[name] for name in names if name in known], names)


def _say_policies(policies: Iterable[Named], decided: Sequence[str]) -> None:
    for each in policies:
        sign, colour = ("✓", "green") if each.effect == "permit" else ("✗", "red")
        outweighed = "" if each.name in decided else ", outweighed"
        say(f"  {sign} {each.name}  {each.policy.file}:{each.policy.line}  {each.effect}s{outweighed}", fg=colour)
        for line in each.policy.text.splitlines():
            say(f"      {line}", fg="bright_black")


def _loaded(folders: Sequence[str], deployment: Deployment) -> PolicySet:
    try:
        return PolicySet(read(folders), deployment)
    except PolicyError as error:
        raise Unreadable(f"the policies are wrong:\n{error}") from None


def _deployment(asked: dict[str, Any]) -> Deployment:
    names = asked["classifications"] or DEFAULT_CLASSIFICATIONS
    operators = asked["operator_tenants"] or DEFAULT_OPERATORS
    return Deployment(tuple(name.lower() for name in names), frozenset(operators), asked["region"])


def _question(asked: dict[str, Any]) -> Question:
    who = Subject(
        tenant=asked["tenant"],
        roles=frozenset(asked["roles"]),
        scopes=frozenset(asked["scopes"]) or None,
        issuer=asked["issuer"],
        subject=asked["subject"],
        groups=frozenset(asked["groups"]),
        clearance=asked["clearance"].lower(),
        residency=asked["principal_residency"],
        mfa=asked["mfa"],
        authenticated_at=asked["authenticated_at"],
    )
    evidence = None
    if asked["event_type"] is not None:
        evidence = EvidenceFacts(asked["event_type"], asked["classification"].lower(), asked["residency"])
    circumstances = Circumstances(asked["time"] or datetime.now(UTC), asked["rpc"], asked["address"])
    return Question(who, asked["action"], evidence, circumstances)


def _said(decision: Decision) -> dict[str, Any]:
    errors = {"errors": list(decision.errors)} if decision.errors else {}
    return {"decision": "allow" if decision.allowed else "deny", "by": list(decision.policies), **errors}


def _shown(each: Named, *, decided: bool) -> dict[str, Any]:
    return {
        "name": each.name,
        "effect": each.effect,
        "file": each.policy.file,
        "line": each.policy.line,
        "text": each.policy.text,
        "decided": decided,
    }
