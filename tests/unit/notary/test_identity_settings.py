"""The file of identity settings: strict, followed, and what it makes of tokens of workloads and of certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from afdp.config import SettingsError
from afdp.formats.statement import Submitter
from afdp.notary.access.refusal import CredentialRefused
from afdp.notary.identity.claims import ClaimPath, Pattern
from afdp.notary.identity.identity import Identity
from afdp.notary.identity.principals import TokenPrincipals
from afdp.notary.identity.settings import IssuerSettings, parse_identity, read_identity
from afdp.notary.model import Principal
from afdp.rpc.caller import Caller, PeerCertificate
from tests.local_issuer import LocalIssuer, running_identity, write_identity

GOOD = """
issuers:
  - issuer: https://issuer.example
    audiences: afdp-notary
    tenant: {value: acme}
"""


def test_the_least_that_is_needed_is_short() -> None:
    (issuer,) = parse_identity(GOOD.encode(), "identity.yaml").issuers

    assert (issuer.audiences, issuer.algorithms, issuer.subject) == (("afdp-notary",), ("RS256", "ES256"), ("sub",))


WRONG = {
    "an unknown name": (GOOD + "    audience: x\n", r"issuers\[0\]\.audience: Extra inputs"),
    "an unknown name at the top": (GOOD + "issuer: []\n", "issuer: Extra inputs"),
    "a name that stands twice": (GOOD + "    tenant: {value: bank}\n", "tenant stands more than once"),
    "a missing name": (
        "issuers: [{issuer: 'https://a', tenant: {value: a}}]",
        r"issuers\[0\]\.audiences: Field required",
    ),
    "no tenant": ("issuers: [{issuer: 'https://a', audiences: b}]", "must have a tenant, or rules"),
    "a tenant of two kinds": (GOOD.replace("{value: acme}", "{value: a, claim: b}"), "one of value and claim"),
    "a tenant's name": (GOOD.replace("acme", "a/b"), r"tenant\.value: Value error, must be 1 to 63"),
    "a symmetric algorithm": (GOOD + "    algorithms: [HS256]\n", "must be one of RS256"),
    "no algorithm at all": (GOOD + "    algorithms: [none]\n", "must be one of RS256"),
    "keys in the clear": (GOOD + "    keys: {url: 'http://issuer.example/keys'}\n", "must begin with https"),
    "keys at two places": (GOOD + "    keys: {url: 'https://a/k', file: b}\n", "one of discovery, url and file"),
    "an issuer that is no URL": (GOOD.replace("https://issuer.example", "kubernetes"), "is no URL to discover keys at"),
    "an issuer in the clear": (GOOD.replace("https:", "http:"), "is no URL to discover keys at"),
    "an issuer twice": (GOOD + GOOD.partition("issuers:\n")[2], "must have each issuer once"),
    "an unknown preset": (GOOD + "    preset: google\n", r"issuers\[0\]\.preset: Input should be"),
    "workloads without rules": (
        "issuers: [{preset: github-actions, audiences: a, tenant: {value: b}}]",
        "must have rules: everybody on that platform",
    ),
    "a rule for all": (
        "issuers: [{preset: gitlab, audiences: a, rules: [{when: {}, tenant: b}]}]",
        r"issuers\[0\]\.rules\[0\]\.when: Dictionary should have at least 1 item",
    ),
    "a certificate without a name": ("certificates: [{tenant: a}]", "must have uri or dns"),
    "nobody": ("{}", "nobody could call"),
    "nothing": ("", "the file: Input should be"),
    "no YAML": ("issuers: [", "is not valid YAML"),
    "no date": ("issuers: 2026-99-99", "is not valid YAML"),
    "no end of lists": ("[" * 5000, "is not valid YAML"),
    "a list as a name": ("? [a]\n: b", "is not valid YAML"),
    "an object": ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_the_file_is_named(case: str) -> None:
    text, fault = WRONG[case]

    with pytest.raises(SettingsError, match=fault):
        parse_identity(text.encode(), "identity.yaml")


def test_a_presets_settings_are_changed_name_by_name() -> None:
    entra = {
        "issuer": "https://login.microsoftonline.com/7f/v2.0",
        "preset": "entra",
        "audiences": "afdp",
        "tenant": {"value": "acme"},
        "scopes": {"map": {"Notary.Write": "afdp.notary.write"}},
    }
    (issuer,) = parse_identity(str({"issuers": [entra]}).encode(), "identity.yaml").issuers

    principal = TokenPrincipals(issuer).principal(
        {"oid": "9a", "sub": "b", "scp": "Notary.Write User.Read", "roles": ["admin"]}
    )

    assert principal.submitter.subject == "9a"
    assert principal.scopes == {"afdp.notary.write"}
    assert principal.roles == {"admin"}


# --- workloads --------------------------------------------------------------------------------------------------------

GITHUB: dict[str, Any] = {
    "preset": "github-actions",
    "audiences": "afdp-notary",
    "rules": [
        {
            "when": {"repository": "acme/*", "ref": "refs/heads/main", "environment": ["production", "staging"]},
            "tenant": "acme",
            "roles": "ai_engineer",
            "scopes": ["afdp.notary.write"],
            "residency": "EU",
        },
        {"when": {"repository_owner_id": "4711"}, "tenant": "acme-dev", "roles": [], "scopes": "afdp.notary.read"},
    ],
}
GITHUB_CLAIMS = {
    "sub": "repo:acme/model:environment:production",
    "repository": "acme/model",
    "ref": "refs/heads/main",
    "environment": "production",
    "actor": "octocat",
}
KUBERNETES: dict[str, Any] = {
    "issuer": "https://kubernetes.default.svc",
    "preset": "kubernetes",
    "audiences": "afdp-notary",
    "rules": [
        {
            "when": {"/kubernetes.io/namespace": "ml-*", "/kubernetes.io/serviceaccount/name": "trainer"},
            "tenant": "acme",
            "roles": "ai_engineer",
            "scopes": "afdp.notary.write",
        }
    ],
}
GITLAB: dict[str, Any] = {
    "preset": "gitlab",
    "audiences": "afdp-notary",
    "rules": [{"when": {"project_path": "acme/**", "ref_protected": "true"}, "tenant": "acme", "roles": "ai_engineer"}],
}


def whose(settings: dict[str, Any], claims: dict[str, Any]) -> Principal:
    return TokenPrincipals(IssuerSettings.model_validate(settings)).principal(claims)


def test_a_pipelines_token_has_what_the_rule_says_that_all_its_claims_fit() -> None:
    principal = whose(GITHUB, {**GITHUB_CLAIMS, "scope": "afdp.notary.read", "amr": ["mfa"]})

    assert principal.tenant == "acme"
    assert principal.submitter == Submitter(
        "https://token.actions.githubusercontent.com", "repo:acme/model:environment:production", "oidc"
    )
    assert (principal.roles, principal.scopes) == ({"ai_engineer"}, {"afdp.notary.write"})
    assert (principal.attributes.residency, principal.attributes.mfa) == ("EU", False)
    assert "octocat" not in repr(principal)


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": "evil/model"},
        {"repository": "acme/model/x"},
        {"repository": "ACME/model"},
        {"repository": "xacme/model"},
        {"repository": ["evil/a"]},
        {"repository": {"acme/model": 1}},
        {"ref": "refs/heads/main2"},
        {"ref": "refs/heads/main\n"},
        {"environment": None},
        {"environment": "test"},
    ],
)
def test_a_pipelines_token_that_fits_no_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CredentialRefused, match="no rule"):
        whose(GITHUB, {**GITHUB_CLAIMS, **changes})


def test_the_next_rule_decides_where_the_first_does_not_fit() -> None:
    assert whose(GITHUB, {**GITHUB_CLAIMS, "ref": "refs/heads/x", "repository_owner_id": "4711"}).tenant == "acme-dev"


def test_a_service_account_is_known_by_its_namespace_and_name() -> None:
    account = {"namespace": "ml-prod", "serviceaccount": {"name": "trainer", "uid": "1"}}
    subject = "system:serviceaccount:ml-prod:trainer"

    assert whose(KUBERNETES, {"sub": subject, "kubernetes.io": account}).submitter.subject == subject
    for other in ({**account, "namespace": "default"}, {"namespace": "ml-prod"}, "ml-prod"):
        with pytest.raises(CredentialRefused):
            whose(KUBERNETES, {"sub": subject, "kubernetes.io": other})


def test_a_gitlab_job_is_known_by_its_project() -> None:
    claims = {"sub": "project_path:acme/a/b:ref_type:branch:ref:main", "project_path": "acme/a/b"}

    assert whose(GITLAB, {**claims, "ref_protected": "true"}).tenant == "acme"
    with pytest.raises(CredentialRefused):
        whose(GITLAB, {**claims, "ref_protected": "false"})


def test_a_star_stays_within_its_part() -> None:
    assert Pattern.parse("repo:acme/*:ref:refs/heads/**").matches("repo:acme/model:ref:refs/heads/a/b")
    assert not Pattern.parse("repo:acme/*:ref:**").matches("repo:acme/x:environment:y:ref:z")
    assert not Pattern.parse("a.c").matches("abc")
    assert Pattern.parse("*.ci.acme.example", ends=".").matches("runner-1.ci.acme.example")
    assert not Pattern.parse("*.ci.acme.example", ends=".").matches("evil.x.ci.acme.example")


def test_a_pattern_of_many_stars_is_refused() -> None:
    with pytest.raises(ValueError, match="16 stars"):
        Pattern.parse("*a" * 17)


def test_claims_are_found_by_their_paths() -> None:
    claims = {"a": {"b": 1}, "https://acme.example/tenant": "acme", "k.io": {"n/s": "x"}}

    assert ClaimPath.parse("a.b").find(claims) == 1
    assert ClaimPath.parse("https://acme.example/tenant").find(claims) == "acme"
    assert ClaimPath.parse("/k.io/n~1s").find(claims) == "x"
    assert ClaimPath.parse("a.b.c").find(claims) is None
    for wrong in ("", ".", "a..b", "/"):
        with pytest.raises(ValueError, match="must name a claim"):
            ClaimPath.parse(wrong)


def test_tenants_are_mapped_and_may_have_a_default() -> None:
    settings = {
        "issuer": "https://a",
        "audiences": "b",
        "tenant": {
            "claim": "groups",
            "map": {"/acme": "acme", "/acme/eu": "acme", "/bank": "bank"},
            "default": "guests",
        },
    }

    assert whose(settings, {"sub": "a", "groups": ["/acme", "/acme/eu", "/other"]}).tenant == "acme"
    assert whose(settings, {"sub": "a"}).tenant == "guests"
    for groups in (["/acme", "/bank"], ["/other"], [], "", {"name": "/acme"}, "\n"):
        with pytest.raises(CredentialRefused, match="tenant"):
            whose(settings, {"sub": "a", "groups": groups})


def test_roles_are_mapped_and_others_left_out() -> None:
    settings = {
        "issuer": "https://a",
        "audiences": "b",
        "tenant": {"value": "acme"},
        "roles": {"claims": ["groups"], "map": {"/notary/admins": ["admin", "ai_engineer"]}, "always": "reader"},
    }

    assert whose(settings, {"sub": "a", "groups": ["/notary/admins", "admin"]}).roles == {
        "admin",
        "ai_engineer",
        "reader",
    }


# --- certificates -----------------------------------------------------------------------------------------------------

CERTIFICATES = {
    "certificates": [
        {"uri": "spiffe://acme.example/ci/*", "tenant": "acme", "roles": "ai_engineer"},
        {
            "dns": "*.batch.acme.example",
            "tenant": "acme",
            "roles": "security_analyst",
            "subject": "batch",
            "issuer": "pki",
        },
    ]
}


async def test_a_certificate_stands_for_whom_its_names_say(tmp_path: Path) -> None:
    identity = Identity(write_identity(tmp_path / "identity.yaml", CERTIFICATES))

    async def whose_is(uris: tuple[str, ...], *dns: str) -> Principal:
        shown = PeerCertificate(uris, dns, b"der", 4e9)
        return await identity.authenticate(Caller(certificate=shown, address="192.0.2.1"))

    runner = await whose_is(("spiffe://acme.example/ci/runner",), "runner.acme.example")
    assert runner.submitter == Submitter("spiffe://acme.example", "spiffe://acme.example/ci/runner", "mtls")
    assert (runner.tenant, runner.roles, runner.scopes) == ("acme", {"ai_engineer"}, None)
    assert (runner.attributes.credential, runner.attributes.address) == ("certificate", "192.0.2.1")
    assert runner.attributes.expires_at == datetime.fromtimestamp(4e9, UTC)
    assert (await whose_is((), "a.batch.acme.example")).submitter == Submitter("pki", "batch", "mtls")
    for uri in ("spiffe://acme.example/ci/a/b", "spiffe://evil.example/ci/a", "a.batch.acme.example"):
        with pytest.raises(CredentialRefused, match="no rule fits"):
            await whose_is((uri,))
    for dns in ((), ("batch.acme.example",), ("spiffe://acme.example/ci/runner",)):
        with pytest.raises(CredentialRefused, match="no rule fits"):
            await whose_is((), *dns)
    with pytest.raises(CredentialRefused, match="no credentials"):
        await identity.authenticate(Caller())


async def test_a_token_decides_whatever_certificate_it_comes_with(tmp_path: Path) -> None:
    issuer = LocalIssuer(tmp_path)
    file = write_identity(tmp_path / "identity.yaml", {"issuers": [issuer.settings()], **CERTIFICATES})
    certificate = PeerCertificate(("spiffe://acme.example/ci/runner",), (), b"der", 4e9)
    async with running_identity(file) as identity:
        found = await identity.authenticate(Caller(f"Bearer {issuer.token()}", certificate))
        assert found.submitter.method == "oidc"
        with pytest.raises(CredentialRefused):  # a token that is not believed is not passed over
            await identity.authenticate(Caller("Bearer nonsense", certificate))


# --- followed ---------------------------------------------------------------------------------------------------------


async def test_the_file_is_followed_and_a_wrong_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("afdp.notary.identity.identity._LOOK_SECONDS", 0.01)
    issuer = LocalIssuer(tmp_path)
    caller = Caller(f"Bearer {issuer.token()}")
    file = write_identity(tmp_path / "identity.yaml", {"issuers": [issuer.settings()]})
    async with running_identity(file) as identity:
        assert (await identity.authenticate(caller)).tenant == "acme"

        write_identity(file, {"issuers": [issuer.settings(tenent={"value": "bank"})]})
        await until(lambda: "tenent" in str([getattr(each, "fields", "") for each in caplog.records]))
        assert (await identity.authenticate(caller)).tenant == "acme"

        write_identity(file, {"issuers": [issuer.settings(tenant={"value": "bank"})]})
        seen = set()
        async with asyncio.timeout(10):
            while "bank" not in seen:  # no call fails meanwhile
                seen.add((await identity.authenticate(caller)).tenant)
                await asyncio.sleep(0)

        write_identity(file, {"issuers": [LocalIssuer(tmp_path, "https://other.example").settings()]})
        async with asyncio.timeout(10):
            with pytest.raises(CredentialRefused, match="not known"):
                await until_refused(identity, caller)


async def test_a_file_that_could_not_be_read_for_a_moment_is_read_again_without_being_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("afdp.notary.identity.identity._LOOK_SECONDS", 0.01)
    issuer = LocalIssuer(tmp_path)
    caller = Caller(f"Bearer {issuer.token()}")
    file = write_identity(tmp_path / "identity.yaml", {"issuers": [issuer.settings()]})
    tries: list[Path] = []

    def failing_at_first(path: Path) -> bytes:
        tries.append(path)
        if len(tries) < 4:
            raise SettingsError("the disk is away")
        return read_identity(path)

    async with running_identity(file) as identity:
        caplog.set_level("INFO")
        monkeypatch.setattr("afdp.notary.identity.identity.read_identity", failing_at_first)
        write_identity(file, {"issuers": [issuer.settings(tenant={"value": "bank"})]})
        await until(lambda: "were read anew" in caplog.text)
        assert (await identity.authenticate(caller)).tenant == "bank"
    assert len([each for each in caplog.records if "the disk is away" in str(getattr(each, "fields", ""))]) == 1


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


async def until_refused(identity: Identity, caller: Caller) -> None:
    while True:
        await identity.authenticate(caller)
        await asyncio.sleep(0.01)
