from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
import rfc8785

from afdp.errors import InvalidArgument
from afdp.formats.evidence import Actor, Artifact, EvidencePackage, canonical_evidence, evidence_hash
from afdp.formats.statement import (
    ANONYMOUS,
    DEFAULT_TENANT,
    EVIDENCE_SUBJECT,
    Statement,
    Subject,
    Submitter,
    parse_statement,
    statement_bytes,
)

TIME = datetime(2026, 11, 24, 4, 9, 28, 120_000, tzinfo=UTC)
SALT = bytes(range(32))
ARTIFACTS = (("model.bin", "ab" * 32), ('a "b" größe %b', "cd" * 32))
CI = Submitter("https://issuer.example", "ci@acme", "oidc")
EVIDENCE = canonical_evidence(
    EvidencePackage(
        "1.0.0",
        TIME,
        "ai.model.trained",
        Actor("service", "ci"),
        tuple(Artifact(*each) for each in ARTIFACTS),
        {"percent": "100 %b", "large": 1e20, "n": 2.0**53},
    )
)
WORKFLOW = "simple-signing-0199f0a0-0000-7000-8000-000000000000"
APPROVALS = ({"approver": "ann", "order": 1.0}, {"approver": "bob"})


def made(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "evidence": EVIDENCE,
        "evidence_hash": evidence_hash(EVIDENCE),
        "artifacts": ARTIFACTS,
        "tenant": "acme",
        "submitter": CI,
        "workflow_id": WORKFLOW,
        "notarized_at": TIME,
        "salt": SALT,
        **changes,
    }
    return statement_bytes(**arguments)


def test_a_statement_is_an_in_toto_statement_around_the_evidence() -> None:
    assert json.loads(made()) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "evidence-package", "digest": {"sha256": sha256(EVIDENCE).hexdigest()}},
            {"name": "model.bin", "digest": {"sha256": "ab" * 32}},
            {"name": 'a "b" größe %b', "digest": {"sha256": "cd" * 32}},
        ],
        "predicateType": "https://afdp.dev/evidence/v1",
        "predicate": {
            "evidence": json.loads(EVIDENCE),
            "approvals": [],
            "notary": {
                "tenant": "acme",
                "submitter": {"issuer": "https://issuer.example", "subject": "ci@acme", "method": "oidc"},
                "workflow_id": WORKFLOW,
                "notarized_at": "2026-11-24T04:09:28.120Z",
                "salt": b64encode(SALT).decode(),
            },
        },
    }
    assert EVIDENCE in made()


def test_a_statement_is_in_canonical_form_with_and_without_approvals() -> None:
    for payload in (made(), made(approvals=APPROVALS)):
        assert rfc8785.dumps(json.loads(payload, parse_int=float)) == payload


def test_a_statement_is_read_back() -> None:
    assert parse_statement(made(approvals=APPROVALS)) == Statement(
        evidence=json.loads(EVIDENCE),
        evidence_bytes=EVIDENCE,
        evidence_hash=evidence_hash(EVIDENCE),
        subjects=(Subject(EVIDENCE_SUBJECT, evidence_hash(EVIDENCE)), *(Subject(*each) for each in ARTIFACTS)),
        tenant="acme",
        submitter=CI,
        workflow_id=WORKFLOW,
        notarized_at=TIME,
        salt=SALT,
        approvals=({"approver": "ann", "order": 1}, {"approver": "bob"}),
    )


def test_without_authentication_the_submitter_is_anonymous() -> None:
    statement = parse_statement(made(tenant=DEFAULT_TENANT, submitter=ANONYMOUS))

    assert statement.tenant == "default"
    assert statement.submitter == Submitter(issuer="", subject="anonymous", method="none")


def test_subjects_that_are_the_evidence_and_its_artifacts_pass() -> None:
    statement = parse_statement(made())

    statement.check_subjects()
    assert statement.artifacts() == tuple(Subject(*each) for each in ARTIFACTS)


@pytest.mark.parametrize(
    ("subjects", "field"),
    [
        (lambda s: (), "subject"),
        (lambda s: s[:-1], "subject"),
        (lambda s: (*s, s[-1]), "subject"),
        (lambda s: (s[1], s[0], s[2]), "subject[0]"),
        (lambda s: (s[0], s[2], s[1]), "subject[1]"),
        (lambda s: (Subject("evidence", s[0].sha256), *s[1:]), "subject[0]"),
        (lambda s: (Subject(s[0].name, "00" * 32), *s[1:]), "subject[0]"),
        (lambda s: (*s[:2], Subject(s[2].name, "00" * 32)), "subject[2]"),
    ],
)
def test_other_subjects_are_named(subjects: Any, field: str) -> None:
    statement = parse_statement(made())

    with pytest.raises(InvalidArgument) as caught:
        replace(statement, subjects=subjects(statement.subjects)).check_subjects()

    assert [fault.field for fault in caught.value.fields] == [field]


def test_evidence_without_artifacts_is_named_not_a_crash() -> None:
    for evidence, field in (({}, "artifacts"), ({"artifacts": [1]}, "artifacts[0]"), ({"artifacts": 1}, "artifacts")):
        with pytest.raises(InvalidArgument) as caught:
            replace(parse_statement(made()), evidence=evidence).check_subjects()
        assert caught.value.fields[0].field == f"predicate.evidence.{field}"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("Statement/v1", "Statement/v0.1", "_type"),
        ("afdp.dev/evidence/v1", "afdp.dev/evidence/v2", "predicateType"),
        ('"approvals":[]', '"approvals":{}', "predicate.approvals"),
        ('"approvals":[]', '"approvals":[1]', "predicate.approvals[0]"),
        ('"approvals":[],', "", "predicate.approvals"),
        ('"tenant":"acme"', '"tenant":""', "predicate.notary.tenant"),
        ('"tenant":"acme"', '"tenant":"acme","tenant":"other"', "predicate.notary.tenant"),
        ('"method":"oidc"', '"method":1', "predicate.notary.submitter.method"),
        ('"issuer"', '"iss"', "predicate.notary.submitter.issuer"),
        ('"salt":"AA', '"salt":"', "predicate.notary.salt"),
        ('28.120Z","salt', '28.120","salt', "predicate.notary.notarized_at"),
        ('"subject":[{', '"subject":[1,{', "subject[0]"),
        ('"sha256":"ab', '"sha256":"AB', "subject[1].digest.sha256"),
        ('"digest":{"sha256"', '"digest":{"sha512":"","sha256"', "subject[0].digest.sha512"),
        ('"name":"evidence-package"', '"name":"evidence-package","uri":""', "subject[0].uri"),
        ('{"_type"', '{"extra":1,"_type"', "extra"),
        ('"evidence":{', '"evidence":1,"other":{', "predicate.evidence"),
    ],
)
def test_a_statement_of_another_form_is_refused_by_field(old: str, new: str, field: str) -> None:
    text = made().decode()
    assert old in text

    with pytest.raises(InvalidArgument) as caught:
        parse_statement(text.replace(old, new, 1).encode())

    assert caught.value.fields[0].field == field


def test_a_changed_evidence_has_another_hash() -> None:
    changed = parse_statement(made().replace(b"ai.model.trained", b"ai.model.retrained"))

    with pytest.raises(InvalidArgument, match=r"subject\[0\]: is not the canonical evidence"):
        changed.check_subjects()


def test_a_salt_of_another_length_and_a_naive_time_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        made(salt=bytes(31))
    with pytest.raises(ValueError, match="time zone"):
        made(notarized_at=datetime(2026, 1, 1))
