"""Our DER beside asn1crypto's, both ways, over generated values; and what strictness refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from asn1crypto import cms, core, parser, tsp, x509
from hypothesis import given, settings
from hypothesis import strategies as st

from afdp.formats.der import SHA256, SHA384, SHA512
from afdp.formats.rfc3161 import (
    Failure,
    Imprint,
    Info,
    Query,
    QueryError,
    Response,
    attributes_der,
    info_der,
    query_der,
    read_granted,
    read_info,
    read_query,
    read_response,
    read_token,
    refusal_der,
    sorted_response,
)
from tests.local_authority import LocalAuthority

TIME = datetime(2026, 11, 24, 4, 9, 28, 119_000, tzinfo=UTC)
AUTHORITY = LocalAuthority()
NAMES = {SHA256: "sha256", SHA384: "sha384", SHA512: "sha512"}
SIZES = {SHA256: 32, SHA384: 48, SHA512: 64}


@st.composite
def imprints(draw: st.DrawFn) -> Imprint:
    algorithm = draw(st.sampled_from(sorted(SIZES)))
    size = SIZES[algorithm]
    return Imprint(draw(st.binary(min_size=size, max_size=size)), algorithm, draw(st.booleans()))


policies = st.lists(st.integers(0, 2**28 - 1), min_size=1, max_size=6).map(
    lambda arcs: ".".join(map(str, (1, 3, *arcs)))
)
nonces = st.none() | st.integers(-(2**255), 2**255)
queries = st.builds(Query, imprints(), st.none() | policies, nonces, st.booleans())
accuracies = st.none() | st.builds(
    timedelta, seconds=st.integers(0, 10**6), milliseconds=st.integers(0, 999), microseconds=st.integers(1, 999)
)
infos = st.builds(
    Info,
    policies,
    imprints(),
    st.integers(0, 2**159 - 1),
    st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)),
    accuracies,
    nonces,
    st.booleans(),
)


def native_imprint(imprint: Imprint) -> dict[str, Any]:
    return {"hash_algorithm": {"algorithm": NAMES[imprint.algorithm]}, "hashed_message": imprint.digest}


def with_null(imprint: Imprint) -> Imprint:
    """As asn1crypto writes it: always with parameters of NULL."""
    return replace(imprint, null=True)


def native_accuracy(accuracy: timedelta) -> dict[str, int]:
    millis, micros = divmod(accuracy.microseconds, 1000)
    parts = {"seconds": accuracy.days * 86_400 + accuracy.seconds, "millis": millis, "micros": micros}
    return {name: value for name, value in parts.items() if value}


@settings(deadline=None)
@given(queries)
def test_a_query_is_asn1cryptos_query(query: Query) -> None:
    members: dict[str, Any] = {"version": 1, "message_imprint": native_imprint(query.imprint)}
    if query.policy:
        members["req_policy"] = query.policy
    if query.nonce is not None:
        members["nonce"] = query.nonce
    if query.wants_certificate:
        members["cert_req"] = True

    assert tsp.TimeStampReq(members).dump() == query_der(replace(query, imprint=with_null(query.imprint)))
    assert tsp.TimeStampReq.load(query_der(query), strict=True)["message_imprint"]["hashed_message"].native
    assert read_query(query_der(query)) == query


@settings(deadline=None)
@given(infos)
def test_a_tst_info_is_asn1cryptos_tst_info(info: Info) -> None:
    members: dict[str, Any] = {
        "version": 1,
        "policy": info.policy,
        "message_imprint": native_imprint(info.imprint),
        "serial_number": info.serial,
        "gen_time": info.time,
    }
    if info.accuracy:
        members["accuracy"] = native_accuracy(info.accuracy)
    if info.ordering:
        members["ordering"] = True
    if info.nonce is not None:
        members["nonce"] = info.nonce

    assert tsp.TSTInfo(members).dump() == info_der(replace(info, imprint=with_null(info.imprint)))
    assert read_info(info_der(info)) == info


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=48), st.binary(min_size=32, max_size=32))
def test_signed_attributes_are_asn1cryptos(content: bytes, certificate: bytes) -> None:
    ours = attributes_der(content, certificate)

    native = cms.CMSAttributes.load(ours, strict=True)
    assert native.dump(force=True) == ours
    assert {each["type"].native: each["values"].native for each in native} == {
        "content_type": ["tst_info"],
        "message_digest": [content],
        "signing_certificate_v2": [
            {
                "certs": [
                    {
                        "hash_algorithm": {"algorithm": "sha256", "parameters": None},
                        "cert_hash": certificate,
                        "issuer_serial": None,
                    }
                ],
                "policies": None,
            }
        ],
    }


@settings(deadline=None)
@given(st.sampled_from(Failure), st.text(max_size=50))
def test_a_refusal_is_asn1cryptos(failure: Failure, reason: str) -> None:
    der = refusal_der(failure, reason)

    # asn1crypto knows no response without a token
    status = tsp.PKIStatusInfo.load(parser.parse(der, strict=True)[4], strict=True)
    assert status["status"].native == "rejection"
    assert status["status_string"].native == [reason]
    assert status["fail_info"].native == {failure.name.lower()}
    assert read_response(der) == Response(2, reason, (failure,))


@settings(deadline=None, max_examples=10)  # asn1crypto is slow
@given(infos, st.booleans())
def test_asn1crypto_reads_a_response_as_we_do(info: Info, with_certificates: bool) -> None:
    ours = AUTHORITY.respond(info, with_certificates)

    native = tsp.TimeStampResp.load(ours, strict=True)
    data = native["time_stamp_token"]["content"]
    [signer] = data["signer_infos"]
    token = read_granted(ours)
    assert native.dump(force=True) == ours
    assert token.info == info
    assert data["encap_content_info"]["content"].parsed["serial_number"].native == info.serial
    assert signer["signature"].native == token.signature
    assert signer["sid"].chosen["serial_number"].native == token.serial == AUTHORITY.certificate.serial_number
    assert signer["signed_attrs"].untag().dump() == token.attributes
    assert len(data["certificates"]) == len(token.certificates) == (2 if with_certificates else 0)


def test_certificates_that_are_not_sorted_as_der_wants_it_are_read_and_can_be_sorted() -> None:
    der = AUTHORITY.stamp(b"data", TIME, with_certificates=True)
    response = tsp.TimeStampResp.load(der)
    data = response["time_stamp_token"]["content"]
    first, second = (each.dump() for each in data["certificates"])
    unsorted = der.replace(first + second, second + first)

    assert unsorted != der
    assert read_granted(unsorted).certificates == (second, first)
    assert sorted_response(unsorted) == der
    assert sorted_response(der) == der
    assert read_granted(der).certificates == tuple(sorted(AUTHORITY.certificates))


# --- strictness -------------------------------------------------------------------------------------------------------


def resigned(change: Any) -> bytes:
    """A response whose structure was changed; its signature does not matter to a reader."""
    response = tsp.TimeStampResp.load(AUTHORITY.stamp(b"data", TIME))
    change(response["time_stamp_token"]["content"])
    dumped: bytes = response.dump(force=True)
    return dumped


def second_signer(data: Any) -> None:
    data["signer_infos"] = [data["signer_infos"][0], data["signer_infos"][0].copy()]


def no_signer(data: Any) -> None:
    data["signer_infos"] = []


def without_attribute(kind: str) -> Any:
    def change(data: Any) -> None:
        signer = data["signer_infos"][0]
        signer["signed_attrs"] = [each for each in signer["signed_attrs"] if each["type"].native != kind]

    return change


def attribute(kind: str, values: list[Any]) -> Any:
    def change(data: Any) -> None:
        signer = data["signer_infos"][0]
        kept = [each for each in signer["signed_attrs"] if each["type"].native != kind]
        signer["signed_attrs"] = [*kept, cms.CMSAttribute({"type": kind, "values": values})]

    return change


def content(**members: Any) -> Any:
    def change(data: Any) -> None:
        info = data["encap_content_info"]["content"].parsed
        for name, value in members.items():
            info[name] = value
        data["encap_content_info"]["content"] = core.ParsableOctetString(info.dump(force=True))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.__setitem__("version", "v1"), "SignedData of version 3"),
        (second_signer, "one signer"),
        (no_signer, "one signer"),
        (
            lambda data: data.__setitem__("digest_algorithms", [{"algorithm": "sha512"}]),
            "digest algorithm and no other",
        ),
        (lambda data: data["signer_infos"][0].__setitem__("version", "v3"), "one signer, of version 1"),
        (without_attribute("content_type"), r"one value of the signed attribute 1\.2\.840\.113549\.1\.9\.3"),
        (without_attribute("message_digest"), r"one value of the signed attribute 1\.2\.840\.113549\.1\.9\.4"),
        (without_attribute("signing_certificate_v2"), "one value of the signed attribute"),
        (attribute("content_type", ["data"]), "content type of TSTInfo"),
        (attribute("message_digest", [bytes(32), bytes(range(32))]), "one value of the signed attribute"),
        (content(version=2), "TSTInfo of version 1"),
        (
            content(extensions=[{"extn_id": "1.2.3", "critical": True, "extn_value": b""}]),
            "without critical extensions",
        ),
        (content(accuracy={"millis": 1000}), "accuracy of seconds"),
        (content(accuracy={"seconds": -1}), "accuracy of seconds"),
        (content(nonce=2**256), "nonce of at most"),
    ],
)
def test_a_token_that_is_not_just_what_it_should_be_is_refused(change: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_granted(resigned(change))


def test_what_does_not_matter_in_a_token_may_be_there() -> None:
    def change(data: Any) -> None:
        content(
            tsa=x509.GeneralName("dns_name", "tsa.example"),
            extensions=[{"extn_id": "1.2.3", "critical": False, "extn_value": b""}],
        )(data)

    assert read_granted(resigned(change)).info.time == TIME


def test_a_token_by_itself_reads_as_the_one_in_a_response() -> None:
    der = AUTHORITY.stamp(b"data", TIME)

    response = read_response(der)
    assert response.status == 0
    assert response.token is not None
    assert read_token(response.token) == read_granted(der)


def test_a_response_must_have_a_token_just_where_it_grants_one() -> None:
    granted = tsp.TimeStampResp.load(AUTHORITY.stamp(b"data", TIME))
    granted["status"] = {"status": "rejection"}
    bare = bytes.fromhex("30053003020100")

    for each in (granted.dump(force=True), bare):
        with pytest.raises(ValueError, match="just where it grants one"):
            read_response(each)


def test_only_what_is_granted_without_changes_counts() -> None:
    changed = tsp.TimeStampResp.load(AUTHORITY.stamp(b"data", TIME))
    changed["status"] = {"status": "granted_with_mods"}

    with pytest.raises(ValueError, match="grants a token"):
        read_granted(changed.dump(force=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda der: der[:1] + b"\x82\x00" + der[1:],  # a length longer than it need be
        lambda der: b"\x30\x80" + der[2:] + b"\0\0",  # indefinite length
        lambda der: der + b"\0",
        lambda der: der[:-1],
    ],
)
def test_ber_that_is_not_der_is_refused(change: Any) -> None:
    query = query_der(Query(Imprint(sha256(b"data").digest())))

    with pytest.raises(QueryError) as refused:
        read_query(change(query))
    assert refused.value.failure is Failure.BAD_DATA_FORMAT


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_what_is_no_query_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(QueryError):
        read_query(data)
