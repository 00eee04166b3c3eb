"""Sealing, subjects and blind indexes, without a store."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from afdp.errors import DataLoss
from afdp.messages.metadata import WorkflowType
from afdp.metadata.blind import IndexKey
from afdp.metadata.sealing import NONCE_BYTES, OVERHEAD, Column, Head, seal, unseal
from afdp.metadata.subjects import OWN, Subjects
from afdp.metadata.values import Draft, Principal, SearchTerms

RECEIPT, ANOTHER = UUID("0199d3a0-0000-7000-8000-000000000001"), UUID("0199d3a0-0000-7000-8000-000000000002")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)
HASH = st.binary(min_size=32, max_size=32)


@given(HASH, st.lists(HASH, max_size=4).map(tuple), TEXT, TEXT, TEXT)
def test_a_head_is_read_as_it_was_written(
    evidence_hash: bytes, artifacts: tuple[bytes, ...], actor: str, issuer: str, subject: str
) -> None:
    head = Head(evidence_hash, artifacts, actor, issuer, subject)
    assert Head.from_bytes(head.to_bytes()) == head


def test_what_was_sealed_opens_as_that_column_of_that_record_and_tenant_alone() -> None:
    cipher, other = AESGCM(os.urandom(32)), AESGCM(os.urandom(32))
    sealed = seal(cipher, os.urandom(NONCE_BYTES), b"plain", RECEIPT, b"acme", Column.EVIDENCE)

    assert unseal(cipher, sealed, RECEIPT, b"acme", Column.EVIDENCE) == b"plain"
    assert len(sealed) == len(b"plain") + OVERHEAD
    for key, receipt_id, tenant, column in (
        (other, RECEIPT, b"acme", Column.EVIDENCE),
        (cipher, ANOTHER, b"acme", Column.EVIDENCE),
        (cipher, RECEIPT, b"bank", Column.EVIDENCE),
        (cipher, RECEIPT, b"acme", Column.STATEMENT),
    ):
        with pytest.raises(DataLoss, match="does not open"):
            unseal(key, sealed, receipt_id, tenant, column)


@pytest.mark.parametrize("at", [0, NONCE_BYTES, -1])
def test_one_flipped_bit_is_noticed(at: int) -> None:
    cipher = AESGCM(os.urandom(32))
    sealed = bytearray(seal(cipher, os.urandom(NONCE_BYTES), b"plain", RECEIPT, b"acme", Column.HEAD))
    sealed[at] ^= 1

    with pytest.raises(DataLoss, match="the head of 0199d3a0"):
        unseal(cipher, bytes(sealed), RECEIPT, b"acme", Column.HEAD)
    with pytest.raises(DataLoss):
        unseal(cipher, b"short", RECEIPT, b"acme", Column.HEAD)


def test_an_index_tells_equal_values_of_one_kind_and_tenant_and_nothing_else() -> None:
    one, two = IndexKey(bytes(32)), IndexKey(bytes([1]) * 32)
    value = sha256(b"x").digest()

    assert one.evidence(value) == one.evidence(value)
    different = [one.evidence(value), one.artifact(value), two.evidence(value)]
    assert len(set(different)) == len(different)
    assert len({one.actor("x"), one.submitter("x"), one.issuer("x")}) == 3
    assert len(one.subject("human:alice")) == 16


def draft_of(evidence: bytes, method: str = "oidc") -> Draft:
    return Draft(
        receipt_id=RECEIPT,
        submitter=Principal("acme", "", "ci", method),
        idempotency=None,
        workflow_type=WorkflowType.SIMPLE_SIGNING,
        batch_id=None,
        evidence=evidence,
        evidence_hash=bytes(32),
        terms=SearchTerms("a.b", "human", "alice", datetime.now(UTC), ()),
        statement=b"{}",
        signature=b"s",
        key_id="k:1",
        leaf_hash=bytes(32),
        notarized_at=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("path", "evidence", "subject"),
    [
        ("", b"not read", "human:alice"),
        ("metadata.patient_id", b'{"metadata":{"patient_id":"P-4711"}}', "P-4711"),
        ("metadata.patient_id", b'{"metadata":{"patient_id":4711}}', "4711"),
        ("metadata.patient.id", b'{"metadata":{"patient":{"id":"P"}}}', "P"),
        ("metadata.patient_id", b'{"metadata":{"patient_id":true}}', OWN),
        ("metadata.patient_id", b'{"metadata":{"patient_id":""}}', OWN),
        ("metadata.patient_id", b'{"metadata":{}}', OWN),
        ("metadata.patient_id", b'{"metadata":[]}', OWN),
        ("metadata.patient_id", b"no JSON", OWN),
    ],
)
def test_the_subject_is_the_actor_or_what_stands_at_the_place_that_was_told(
    path: str, evidence: bytes, subject: str
) -> None:
    assert Subjects(path).of(draft_of(evidence)) == subject


def test_what_the_notary_submits_itself_is_the_tenant_s_own() -> None:
    assert Subjects().of(draft_of(b"{}", method="service")) == OWN
    assert Subjects().of(replace(draft_of(b"{}"), submitter=Principal("acme", "", "x", "mtls"))) == "human:alice"
