"""External time-stamping authorities: `openssl ts` behind a server that may misbehave in every way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import tsp

from afdp.errors import DataLoss, FailedPrecondition, Unavailable
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.certificates import to_pem
from afdp.formats.rfc3161 import Failure, Imprint, Info, Query, query_der, read_query, read_response, refusal_der
from afdp.signer.external import AuthorityAccess, ExternalAuthorities, open_external
from afdp.signer.external_answers import ExternalStamp, Reason
from afdp.signer.external_chains import ExternalChains
from afdp.signer.reference import Reference
from afdp.verify.timestamps import verify_stamp
from tests.local_authority import POLICY, Issuer, LocalAuthority
from tests.local_clock import LocalTime
from tests.openssl_authority import OpensslAuthority, openssl_verifies
from tests.tsa_server import TsaServer, tsa_server

DATA = b"notary.localhost\n7\nAAAA\n"


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], Path]) -> OpensslAuthority:
    tool("openssl")
    return OpensslAuthority.create(tmp_path_factory.mktemp("openssl"))


@pytest.fixture
async def server(openssl: OpensslAuthority) -> AsyncIterator[TsaServer]:
    async with tsa_server(openssl.reply) as running:
        yield running


def root_of(folder: Path, certificates: tuple[bytes, ...]) -> Path:
    file = folder / "roots.pem"
    file.write_text(to_pem(certificates[1:]))
    return file


@asynccontextmanager
async def asking(
    folder: Path, *urls: str, certificates: tuple[bytes, ...], timeout: float = 10.0
) -> AsyncIterator[ExternalAuthorities]:
    accesses = [AuthorityAccess(url, root_of(folder, certificates), timeout=timeout) for url in urls]
    async with open_external(accesses, ExternalChains(folder / "external.json")) as external:
        yield external


async def asked(folder: Path, server: TsaServer, certificates: tuple[bytes, ...]) -> ExternalStamp:
    async with asking(folder, server.url, certificates=certificates) as external:
        return await external.stamp(DATA)


async def refused(
    folder: Path, server: TsaServer, certificates: tuple[bytes, ...], reason: Reason, **options: float
) -> Unavailable:
    async with asking(folder, server.url, certificates=certificates, **options) as external:
        with pytest.raises(Unavailable) as error:
            await external.stamp(DATA)
        [part] = await external.status()
        assert external.known() == []
    assert error.value.metadata == {"authority": server.url, "reason": reason.value}
    assert error.value.message.startswith(server.url)
    assert (part.good, part.detail) == (False, error.value.message)
    return error.value


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_rsa", [False, True])
async def test_a_stamp_of_openssl_counts_and_verifies_for_everybody(
    tmp_path: Path, tool: Callable[[str], Path], with_rsa: bool
) -> None:
    tool("openssl")
    authority = OpensslAuthority.create(tmp_path / "openssl", with_rsa=with_rsa)
    async with tsa_server(authority.reply) as server:
        stamp = await asked(tmp_path, server, authority.certificates)

    assert abs((stamp.time - datetime.now(UTC)).total_seconds()) < 60
    assert stamp.url == server.url
    assert stamp.accuracy == timedelta(seconds=1)
    assert tuple(each.der for each in stamp.chain.certificates) == authority.certificates
    trusted = TimestampAuthority.of(stamp.url, authority.certificates, stamp.chain.valid_from)
    assert verify_stamp(stamp.response, DATA, [trusted]).time == stamp.time
    assert openssl_verifies(tmp_path, stamp.response, DATA, authority.certificates)


async def test_each_query_has_a_nonce_of_its_own_and_asks_for_the_certificate(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    for _ in range(3):
        await asked(tmp_path, server, openssl.certificates)

    queries = [read_query(each) for each in server.queries]
    assert len({each.nonce for each in queries}) == 3
    assert all(each.wants_certificate for each in queries)
    assert b"Content-Type: application/timestamp-query\r\n" in server.headers[0]


async def test_certificates_that_come_in_any_order_are_put_in_the_one_of_der(
    tmp_path: Path, openssl: OpensslAuthority
) -> None:
    def backwards(query: bytes) -> bytes:
        response = tsp.TimeStampResp.load(openssl.reply(query))
        both = [each.dump() for each in response["time_stamp_token"]["content"]["certificates"]]
        first, second = both
        return openssl.reply(query).replace(first + second, second + first)

    for reply in (openssl.reply, backwards):
        async with tsa_server(reply) as server:
            assert await asked(tmp_path, server, openssl.certificates)


async def test_intermediate_certificates_may_be_sent_or_be_in_the_file(tmp_path: Path) -> None:
    authority = LocalAuthority(issuer=Issuer("Between", above=Issuer("Top")))
    for with_certificates in ("all", "own"):
        async with tsa_server(lambda query, how=with_certificates: reply_of(authority, query, how)) as server:  # type: ignore[misc]
            stamp = await asked(tmp_path, server, authority.certificates)
        assert tuple(each.der for each in stamp.chain.certificates) == authority.certificates


def reply_of(authority: LocalAuthority, query: bytes, certificates: str = "all", **changes: Any) -> bytes:
    """An answer of an authority in memory, with what a test wants changed."""
    asked = read_query(query)
    info = {"imprint": asked.imprint, "nonce": asked.nonce, "time": datetime.now(UTC), **changes}
    response = authority.respond(Info(POLICY, serial=7, **info), with_certificates=certificates == "all")
    if certificates != "own":
        return response
    native = tsp.TimeStampResp.load(authority.respond(Info(POLICY, serial=7, **info), with_certificates=True))
    data = native["time_stamp_token"]["content"]
    data["certificates"] = [each for each in data["certificates"] if each.dump() == authority.certificates[0]]
    dumped: bytes = native.dump(force=True)
    return dumped


# --- what does not ----------------------------------------------------------------------------------------------------


async def test_an_answer_to_another_query_does_not_count(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    server.reply = lambda query: openssl.reply(query_der(Query(read_query(query).imprint, None, 5, True)))

    error = await refused(tmp_path, server, openssl.certificates, Reason.WRONG_NONCE)
    assert "another nonce" in error.message


async def test_an_answer_without_the_nonce_does_not_count(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    server.reply = lambda query: openssl.reply(query_der(Query(read_query(query).imprint, None, None, True)))

    await refused(tmp_path, server, openssl.certificates, Reason.WRONG_NONCE)


async def test_a_stamp_over_other_data_does_not_count(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    server.reply = lambda query: openssl.reply(
        query_der(Query(Imprint(bytes(32)), None, read_query(query).nonce, True))
    )

    error = await refused(tmp_path, server, openssl.certificates, Reason.WRONG_IMPRINT)
    assert "other data" in error.message


async def test_an_expired_certificate_does_not_count(tmp_path: Path, tool: Callable[[str], Path]) -> None:
    tool("openssl")
    authority = OpensslAuthority.create(tmp_path / "openssl", ended=timedelta(days=1))
    async with tsa_server(authority.reply) as server:
        error = await refused(tmp_path, server, authority.certificates, Reason.CERTIFICATE_EXPIRED)
    assert "not valid now" in error.message


async def test_an_authority_of_an_unknown_root_does_not_count(tmp_path: Path, server: TsaServer) -> None:
    error = await refused(tmp_path, server, LocalAuthority().certificates, Reason.UNKNOWN_AUTHORITY)
    assert "CN=Root of Time, which its ca_file does not have" in error.message


async def test_a_root_of_the_right_name_and_another_key_does_not_count(tmp_path: Path, server: TsaServer) -> None:
    stranger = OpensslAuthority.create(tmp_path / "stranger")

    await refused(tmp_path, server, stranger.certificates, Reason.UNKNOWN_AUTHORITY)


async def test_an_authority_that_is_too_slow_is_given_up(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    server.answers.clear()
    started = time.monotonic()

    error = await refused(tmp_path, server, openssl.certificates, Reason.TIMEOUT, timeout=0.2)

    assert "within 0.2 seconds" in error.message
    assert time.monotonic() - started < 4


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path, openssl: OpensslAuthority) -> None:
    async with tsa_server(openssl.reply) as server:
        pass

    await refused(tmp_path, server, openssl.certificates, Reason.UNREACHABLE)


async def test_a_connection_that_is_closed_is_unreachable(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    server.resets = True

    await refused(tmp_path, server, openssl.certificates, Reason.UNREACHABLE)


@pytest.mark.parametrize("status", [301, 401, 404, 500, 503])
async def test_an_http_error_is_one(tmp_path: Path, server: TsaServer, openssl: OpensslAuthority, status: int) -> None:
    server.status = status

    error = await refused(tmp_path, server, openssl.certificates, Reason.HTTP_STATUS)
    assert f"HTTP status {status}" in error.message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<p>Log in</p>"),
        ("application/timestamp-reply", b"<p>Log in</p>"),
        ("application/timestamp-reply", b""),
        ("application/timestamp-reply", bytes(200_000)),
    ],
)
async def test_what_is_no_response_does_not_count(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority, kind: str, body: bytes
) -> None:
    server.kind, server.reply = kind, lambda _: body

    await refused(tmp_path, server, openssl.certificates, Reason.NOT_A_RESPONSE)


async def test_a_refusal_is_told_with_its_reason(tmp_path: Path, server: TsaServer, openssl: OpensslAuthority) -> None:
    server.reply = lambda _: refusal_der(Failure.SYSTEM_FAILURE, "out of order")

    error = await refused(tmp_path, server, openssl.certificates, Reason.REFUSED)
    assert "out of order" in error.message


async def test_openssls_own_refusal_is_one(tmp_path: Path, server: TsaServer, openssl: OpensslAuthority) -> None:
    sha1 = Imprint(bytes(20), "1.3.14.3.2.26")
    server.reply = lambda _: openssl.reply(query_der(Query(sha1)))

    assert read_response(server.reply(b"")).failures == (Failure.BAD_ALG,)
    await refused(tmp_path, server, openssl.certificates, Reason.REFUSED)


async def test_a_stamp_without_its_certificate_does_not_count(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    server.reply = lambda query: openssl.reply(
        query_der(Query(read_query(query).imprint, None, read_query(query).nonce))
    )

    await refused(tmp_path, server, openssl.certificates, Reason.NO_CERTIFICATE)


async def test_a_signature_that_does_not_hold_does_not_count(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    def changed(query: bytes) -> bytes:
        response = bytearray(openssl.reply(query))
        response[-3] ^= 1
        return bytes(response)

    server.reply = changed

    await refused(tmp_path, server, openssl.certificates, Reason.NOT_VERIFIED)


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1)])
async def test_a_time_far_from_our_own_does_not_count(tmp_path: Path, off: timedelta) -> None:
    authority = LocalAuthority()
    async with tsa_server(lambda query: reply_of(authority, query, time=datetime.now(UTC) + off)) as server:
        await refused(tmp_path, server, authority.certificates, Reason.WRONG_TIME)


async def test_a_certificate_for_more_than_time_stamping_does_not_count(tmp_path: Path) -> None:
    authority = LocalAuthority()
    authority.certificate = authority.issuer.issue("Clock", authority.key.public_key())
    async with tsa_server(lambda query: reply_of(authority, query)) as server:
        error = await refused(tmp_path, server, authority.certificates, Reason.NOT_VERIFIED)
    assert "timeStamping" in error.message


# --- several ----------------------------------------------------------------------------------------------------------


async def test_they_are_asked_in_order_and_one_that_fails_comes_last_for_a_while(
    tmp_path: Path, openssl: OpensslAuthority
) -> None:
    async with (
        tsa_server(openssl.reply) as first,
        tsa_server(openssl.reply) as second,
        asking(tmp_path, first.url, second.url, certificates=openssl.certificates, timeout=2.0) as external,
    ):
        assert (await external.stamp(DATA)).url == first.url
        first.answers.clear()
        assert (await external.stamp(DATA)).url == second.url
        started = time.monotonic()
        assert (await external.stamp(DATA)).url == second.url
        assert time.monotonic() - started < 1.5

        second.status = 500
        first.answers.set()
        assert (await external.stamp(DATA)).url == first.url


async def test_where_all_fail_the_reason_of_each_is_said(tmp_path: Path, openssl: OpensslAuthority) -> None:
    async with tsa_server(openssl.reply) as first, tsa_server(openssl.reply) as second:
        first.status, second.kind = 503, "text/html"
        async with asking(tmp_path, first.url, second.url, certificates=openssl.certificates) as external:
            with pytest.raises(Unavailable) as error:
                await external.stamp(DATA)

    assert f"{first.url} answered with HTTP status 503" in error.value.message
    assert f"{second.url} answered with text/html" in error.value.message
    assert error.value.retry_after


async def test_without_any_there_is_nothing_to_ask(tmp_path: Path) -> None:
    async with open_external([], ExternalChains(tmp_path / "external.json")) as external:
        with pytest.raises(FailedPrecondition, match="AFDP_TSA_EXTERNAL"):
            await external.stamp(DATA)


async def test_an_authority_is_introduced_once_it_answers(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority
) -> None:
    async with asking(tmp_path, server.url, certificates=openssl.certificates) as external:
        await external.introduce()
        [part] = await external.status()
        assert part.good

    again = ExternalChains(tmp_path / "external.json")
    [(url, chain)] = again.known()
    assert url == server.url
    assert tuple(each.der for each in chain.certificates) == openssl.certificates


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"url": "x"}]', b'[{"url": "x", "certificates": ["AAAA"]}]'])
def test_a_memory_that_cannot_be_read_is_not_forgotten(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "external.json"
    file.write_bytes(content)

    with pytest.raises(DataLoss, match="restore it, do not remove it"):
        ExternalChains(file)


async def test_a_password_goes_to_the_authority_and_nowhere_else(
    tmp_path: Path, server: TsaServer, openssl: OpensslAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    roots = root_of(tmp_path, openssl.certificates)
    access = AuthorityAccess(server.url, roots, user="notary", password_file=tmp_path / "password")
    server.status = 401
    async with open_external([access], ExternalChains(tmp_path / "external.json")) as external:
        with pytest.raises(Unavailable) as error:
            await external.stamp(DATA)

    assert b"Authorization: Basic bm90YXJ5Omh1bnRlcjI=" in server.headers[0]
    assert "hunter2" not in error.value.message + json.dumps([each.__dict__ for each in caplog.records], default=str)


@pytest.mark.parametrize(
    ("pem", "said"), [(None, "cannot be read"), ("?", "no root certificate"), ("leaf", "no root certificate")]
)
async def test_a_file_without_a_root_is_refused_at_the_start(
    tmp_path: Path, openssl: OpensslAuthority, pem: str | None, said: str
) -> None:
    file = tmp_path / "roots.pem"
    if pem:
        file.write_text(to_pem(openssl.certificates[:1]) if pem == "leaf" else pem)

    with pytest.raises(FailedPrecondition, match=said):
        async with open_external([AuthorityAccess("http://tsa.example", file)], ExternalChains(tmp_path / "e.json")):
            pass


# --- the clock's reference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-5.0, 0.0, 5.0, 3600.0])
async def test_the_clock_is_found_as_far_from_the_reference_as_it_is(tmp_path: Path, off: float) -> None:
    authority = LocalAuthority()
    there = timedelta(seconds=-off)
    clock = LocalTime().clock(strict=False)
    async with (
        tsa_server(lambda query: reply_of(authority, query, time=datetime.now(UTC) + there)) as server,
        asking(tmp_path, server.url, certificates=authority.certificates) as external,
    ):
        await Reference(clock, external, server.url, 300.0).compare()

    assert clock.now()[1] is (off == 0.0)
    if off:
        [part] = await clock.status()
        way = "ahead of" if off > 0 else "behind"
        assert f"{way} the reference" in part.detail


async def test_a_clock_that_was_set_is_compared_again_at_once(tmp_path: Path) -> None:
    authority, times = LocalAuthority(), LocalTime()
    clock = times.clock(strict=False)
    compared: asyncio.Queue[float] = asyncio.Queue()

    class Noting:
        moved = clock.moved

        def compared(self, ahead: float, uncertainty: float) -> None:
            compared.put_nowait(ahead)

    async with (
        tsa_server(lambda query: reply_of(authority, query)) as server,
        asking(tmp_path, server.url, certificates=authority.certificates) as external,
    ):
        watching = asyncio.create_task(Reference(Noting(), external, server.url, 3600.0).watch())
        async with asyncio.timeout(20):
            await compared.get()
            times.wall += 60
            clock.now()
            assert abs(await compared.get()) < 10
        watching.cancel()
