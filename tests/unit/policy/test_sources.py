"""Policy files: what is wrong is told with file and line, before anything is decided by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from afdp.policy.cedar import PolicySet
from afdp.policy.facts import Deployment
from afdp.policy.sources import BUILT_IN, PolicyError, read, split

GOOD = '@id("all")\npermit (principal, action, resource);\n'


def faults_of(folder: Path, *texts: str) -> list[str]:
    """What is said of policies that are wrong, each file by its name alone."""
    for number, text in enumerate(texts):
        (folder / f"{number}.cedar").write_text(text)
    with pytest.raises(PolicyError) as refused:
        PolicySet(read([str(folder)]), Deployment())
    return [str(fault).replace(f"{folder}/", "") for fault in refused.value.faults]


def test_semicolons_and_quotes_in_strings_and_comments_end_no_policy() -> None:
    first = '@id("a;\\"b;")\npermit (principal, action, resource); // not; "this\n'
    assert list(split("// one; two\n\n" + first + "\nforbid (principal, action, resource);")) == [
        (3, '@id("a;\\"b;")\npermit (principal, action, resource);'),
        (6, "forbid (principal, action, resource);"),
    ]


def test_the_built_in_policies_fit_their_schema_and_have_the_roles_of_the_guide() -> None:
    policies = PolicySet(read([BUILT_IN]), Deployment())
    assert {each.name for each in policies.policies} == {
        "role-ai-engineer",
        "role-security-analyst",
        "role-admin",
        "scope-read",
        "scope-write",
        "operators-only",
    }


def test_a_policy_that_cannot_be_parsed_is_told_with_its_line(tmp_path: Path) -> None:
    assert faults_of(tmp_path, GOOD, "// why\n\npermit (principal,\n  action resource);") == [
        "1.cedar:3: unexpected token `resource`"
    ]


def test_a_policy_that_is_cut_off_is_told_with_its_line(tmp_path: Path) -> None:
    assert faults_of(tmp_path, GOOD + '@id("b") forbid (principal') == ["0.cedar:3: unexpected end of input"]


@pytest.mark.parametrize(
    ("scope", "fault"),
    [
        ('principal in Roel::"admin", action, resource', "unrecognized entity type `Roel`"),
        ('principal, action == Action::"evidence.creat", resource', 'unrecognized action `Action::"evidence.creat"`'),
    ],
)
def test_a_misspelt_name_is_a_fault_and_not_a_policy_that_never_holds(tmp_path: Path, scope: str, fault: str) -> None:
    assert any(f"0.cedar:1: x: {fault}" in each for each in faults_of(tmp_path, f'@id("x") forbid ({scope});'))


def test_an_attribute_that_the_notary_does_not_give_is_a_fault(tmp_path: Path) -> None:
    text = '@id("x")\nforbid (principal, action, resource is Evidence) when { resource.secret == "yes" };'
    assert faults_of(tmp_path, text) == ["0.cedar:1: x: attribute `secret` on entity type `Evidence` not found"]


def test_a_policy_without_a_name_is_a_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path, "permit (principal, action, resource);") == [
        '0.cedar:1: has no name: write @id("…") before it'
    ]


def test_two_policies_of_one_name_are_a_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path, GOOD, "\n" + GOOD) == ['1.cedar:2: @id("all") is that of the policy at 0.cedar:1 too']


def test_a_template_is_a_fault(tmp_path: Path) -> None:
    assert faults_of(tmp_path, '@id("t") permit (principal == ?principal, action, resource);') == [
        "0.cedar:1: is a template, and nothing fills its slots here"
    ]


@pytest.mark.parametrize("text", ["", "// nothing but words\n"])
def test_no_policy_at_all_is_a_fault(tmp_path: Path, text: str) -> None:
    assert faults_of(tmp_path, text) == ["0.cedar: has no policy: everything is denied"]


def test_a_folder_without_policies_and_one_that_is_not_there_are_faults(tmp_path: Path) -> None:
    for folder, fault in [(tmp_path, "has no *.cedar file"), (tmp_path / "none", "No such file or directory")]:
        with pytest.raises(PolicyError) as refused:
            read([str(folder)])
        assert str(refused.value) == f"{folder}: {fault}"


def test_what_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_bytes(b"\xff")
    with pytest.raises(PolicyError, match="is not UTF-8"):
        read([str(tmp_path)])


def test_the_hash_is_of_what_the_files_say_and_not_of_where_they_are(tmp_path: Path) -> None:
    hashes = []
    for name, text in [("one", GOOD), ("two", GOOD), ("three", GOOD + "//")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.cedar").write_text(text)
        hashes.append(read([str(tmp_path / name)]).hash)
    assert hashes[0] == hashes[1] != hashes[2]
