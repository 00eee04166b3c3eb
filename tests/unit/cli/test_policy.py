"""`afdp policy test` and `afdp policy explain`, offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from afdp.cli.__main__ import cli

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "deploy" / "policies"
CASE = """
cases:
  - name: an engineer reads
    principal: {roles: [ai_engineer]}
    action: evidence.read
    decision: %s
"""

Afdp = Callable[..., Result]


@pytest.fixture
def afdp(monkeypatch: pytest.MonkeyPatch) -> Afdp:
    monkeypatch.delenv("AFDP_POLICIES", raising=False)
    return lambda *arguments: CliRunner().invoke(cli, ["policy", *map(str, arguments)], prog_name="afdp")


def test_the_example_policies_do_what_their_table_says(afdp: Afdp) -> None:
    result = afdp("test", EXAMPLES / "cases.yaml")
    assert result.exit_code == 0, result.output
    assert "PASSED  14 of 14 cases" in result.stdout


def test_each_example_policy_stands_by_itself_and_is_in_the_list(afdp: Afdp, tmp_path: Path) -> None:
    listed = (EXAMPLES / "README.md").read_text()
    (tmp_path / "cases.yaml").write_text("policies: [builtin, alone]" + CASE % "allow")
    for file in EXAMPLES.glob("*.cedar"):
        assert f"`{file.name}`" in listed
        (tmp_path / "alone").mkdir(exist_ok=True)
        (tmp_path / "alone" / "alone.cedar").write_text(file.read_text())
        assert afdp("test", tmp_path / "cases.yaml").exit_code == 0, file


def test_a_case_that_is_decided_otherwise_fails_and_says_why(afdp: Afdp, tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(CASE % "deny")
    result = afdp("test", tmp_path / "cases.yaml")
    assert result.exit_code == 1
    assert "expected deny, but it is permitted by role-ai-engineer" in result.stdout
    assert "FAILED  0 of 1 cases" in result.stdout


def test_a_case_that_another_policy_decides_than_expected_fails(afdp: Afdp, tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(CASE % "allow" + "    by: [role-admin]\n")
    result = afdp("test", tmp_path / "cases.yaml", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["missed"] == 1
    assert document["cases"][0] == {
        "file": str(tmp_path / "cases.yaml"),
        "case": "an engineer reads",
        "good": False,
        "decision": "allow",
        "by": ["role-ai-engineer"],
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: [", "is not valid YAML"),
        ("cases: []", "cases must be a list with at least one case"),
        ("[1]", "the file must be a mapping"),
        (CASE % "maybe", "cases[0].decision must be allow or deny"),
        (CASE % "allow" + "    actoin: x\n", "cases[0].actoin is not known"),
        ("cases: [{decision: allow}]", "cases[0].action is missing"),
        ("cases: [{action: a, decision: deny, principal: {mfa: 1}}]", "cases[0].principal.mfa must be a true or false"),
        ("cases: [{action: a, decision: deny, principal: {roles: x}}]", "cases[0].principal.roles must be a list"),
        ("cases: [{action: a, decision: deny, context: {time: soon}}]", "cases[0].context.time must be a time"),
        ("policies: [none]" + CASE % "allow", "none: No such file or directory"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_where(afdp: Afdp, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "cases.yaml").write_text(text)
    result = afdp("test", tmp_path / "cases.yaml")
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_policy_that_is_wrong_is_told_with_file_and_line(afdp: Afdp, tmp_path: Path) -> None:
    (tmp_path / "cases.yaml").write_text(CASE % "allow")
    (tmp_path / "wrong.cedar").write_text("\npermit all;")
    result = afdp("test", tmp_path / "cases.yaml", "--policies", tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}/wrong.cedar:2: unexpected token `all`" in result.stderr


def test_an_explanation_shows_who_permits_and_who_forbids(afdp: Afdp) -> None:
    result = afdp("explain", "--role", "ai_engineer", "--scope", "afdp.notary.read", "--action", "evidence.create")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "DENIED  evidence.create: forbidden by scope-write"
    assert "role-ai-engineer  builtin/roles.cedar:3  permits, outweighed" in result.stdout
    assert "scope-write  builtin/scopes.cedar:8  forbids" in result.stdout


def test_an_explanation_in_json_names_the_policies_that_decided(afdp: Afdp) -> None:
    options = [
        "--role",
        "ai_engineer",
        "--action",
        "evidence.create",
        "--event-type",
        "ai.x",
        "--clearance",
        "internal",
    ]
    policies = ["--policies", f"builtin,{EXAMPLES}", "--classification", "restricted"]
    result = afdp("explain", *options, *policies, "--json")
    document = json.loads(result.stdout)
    assert (document["decision"], document["by"]) == ("deny", ["clearance"])
    decided = {each["name"]: each["decided"] for each in document["policies"]}
    assert decided == {"role-ai-engineer": False, "clearance": True}


def test_a_request_is_explained_from_the_audit_log(afdp: Afdp, tmp_path: Path) -> None:
    explained = json.loads(afdp("explain", "--action", "audit.read", "--json").stdout)
    event = {
        "logger": "afdp.audit",
        "request_id": "r-1",
        "step": "authorization",
        "result": "deny",
        "rpc": "SignEvidence",
        "permission": "evidence.create",
        "subject": "alice\x1b[31m",
        "reason": "forbidden by scope-write",
        "policies": ["scope-write"],
        "policy_hash": explained["policy_hash"],
    }
    other = {**event, "request_id": "r-2"}
    log = tmp_path / "notary.log"
    log.write_text("\n".join(["not json: r-1", json.dumps(other), json.dumps(event)]))
    result = afdp("explain", "--request-id", "r-1", "--log", log)
    assert result.exit_code == 0
    assert "DENIED  authorization of SignEvidence evidence.create" in result.stdout
    assert "scope-write  builtin/scopes.cedar:8  forbids" in result.stdout
    assert "alice\x1b" not in result.stdout
    log.write_text(json.dumps({**event, "policy_hash": "0" * 64}))
    assert "decided by other policies" in afdp("explain", "--request-id", "r-1", "--log", log).stdout
    assert afdp("explain", "--request-id", "r-9", "--log", log).exit_code == 1
    assert afdp("explain", "--request-id", "r-1", "--log", tmp_path / "none").exit_code == 2
    assert afdp("explain", "--request-id", "r-1").exit_code == 2
