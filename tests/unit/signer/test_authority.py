"""The embedded time-stamping authority, with keys in real files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384, sha512
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import tsp

from afdp.errors import DataLoss, FailedPrecondition, Internal, NotaryError, Unavailable
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.certificates import name_parts, to_pem
from afdp.formats.der import SHA256, SHA384, SHA512
from afdp.formats.rfc3161 import Failure, Imprint, Query, query_der, read_granted, read_response
from afdp.signer.authority import EmbeddedAuthority, Interval
from afdp.signer.chains import Chains, GivenChains, OwnChains
from afdp.signer.external_chains import ExternalChains
from afdp.signer.files import FileKeyring
from afdp.signer.keys import P384, KeyCatalogue, KeySpec, KeyVersion, Purpose, Revocation, Signature
from afdp.signer.ntp import Synchronisation
from afdp.signer.tokens import Moment
from afdp.verify.result import NotVerifiedError
from afdp.verify.timestamps import UncountedError, verify_stamp
from tests.local_authority import TIME_STAMPING, Issuer
from tests.local_clock import LocalTime
from tests.local_keys import EVIDENCE, LOG, STAMPS, catalogue, file_catalogue

POLICY = "1.3.6.1.4.1.32473.1.1"
URI = "https://notary.localhost/api/v1/timestamp"
DATA = [b"one", b"two", b"three"]


class Authority:
    """An authority with its parts in reach."""

    def __init__(self, folder: Path, keys: KeyCatalogue | None = None, chains: Chains | None = None) -> None:
        self.time = LocalTime()
        self.keys = keys or file_catalogue(folder)
        chains = chains or OwnChains(folder / "tsa", "notary.localhost")
        self.embedded = EmbeddedAuthority(self.keys, chains, self.time.clock(), POLICY, lambda: self.time.steady)

    async def stamp(self, data: Sequence[bytes]) -> list[bytes]:
        return await self.embedded.stamp([sha256(each).digest() for each in data])

    async def trusted(self) -> list[TimestampAuthority]:
        return [trusted(each) for each in await self.embedded.intervals()]

    async def failure(self, query: bytes) -> tuple[int, ...]:
        response = read_response(await self.embedded.respond(query))
        assert response.token is None
        assert response.reason
        return response.failures


def trusted(interval: Interval) -> TimestampAuthority:
    certificates = [each.der for each in interval.chain.certificates]
    return TimestampAuthority.of(URI, certificates, interval.valid_from, interval.valid_until)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_batch_is_stamped_in_one_moment_each_over_its_own_data(authority: Authority) -> None:
    stamps = [
        verify_stamp(response, data, await authority.trusted())
        for response, data in zip(await authority.stamp(DATA), DATA, strict=True)
    ]

    [time] = {each.time for each in stamps}
    assert abs(time.timestamp() - authority.time.wall) < 0.002
    assert {each.accuracy for each in stamps} == {timedelta(seconds=1)}


async def test_stamps_bring_no_certificate_and_name_the_policy(authority: Authority) -> None:
    [response] = await authority.stamp(DATA[:1])

    token = read_granted(response)
    assert token.certificates == ()
    assert token.info.policy == POLICY
    assert token.info.nonce is None
    assert not token.info.ordering


async def test_asn1crypto_reads_a_stamp_as_we_do(authority: Authority) -> None:
    [response] = await authority.stamp(DATA[:1])

    native = tsp.TimeStampResp.load(response, strict=True)
    info = native["time_stamp_token"]["content"]["encap_content_info"]["content"].parsed
    ours = read_granted(response).info
    assert native.dump(force=True) == response
    assert info["gen_time"].native == ours.time
    assert info["serial_number"].native == ours.serial
    assert info["message_imprint"]["hashed_message"].native == sha256(DATA[0]).digest()


async def test_no_serial_number_comes_twice(tmp_path: Path) -> None:
    serials = set()
    for _ in range(3):  # three starts of one authority
        responses = await Authority(tmp_path).stamp(DATA * 100)
        serials.update(read_granted(each).info.serial for each in responses)

    assert len(serials) == 3 * 300
    assert all(0 < each < 2**159 for each in serials)


@pytest.mark.parametrize(("micros", "written"), [(123_999, 123_000), (120_000, 119_000), (0, 999_000), (999, 999_000)])
def test_a_time_has_three_digits_after_the_second_and_the_last_is_not_0(micros: int, written: int) -> None:
    time = datetime(2026, 11, 24, 4, 9, 28, micros, UTC)

    moment = Moment.of(time, None).time

    assert moment.microsecond == written
    assert timedelta() <= time - moment < timedelta(milliseconds=2)


async def test_without_trust_in_the_clock_nothing_is_said_of_accuracy(authority: Authority, tmp_path: Path) -> None:
    authority.time.system = Synchronisation(False)
    flagging = authority.time.clock(strict=False)
    lax = EmbeddedAuthority(authority.keys, OwnChains(tmp_path / "tsa", "notary.localhost"), flagging, POLICY)

    [response] = await lax.stamp([sha256(b"x").digest()])

    assert verify_stamp(response, b"x", await authority.trusted()).accuracy is None


async def test_a_strict_clock_stops_stamps_and_queries_say_why(authority: Authority) -> None:
    authority.time.system = Synchronisation(False)

    with pytest.raises(Unavailable, match="not synchronised"):
        await authority.stamp(DATA)
    with pytest.raises(Unavailable, match="not synchronised"):
        await authority.embedded.check()
    assert await authority.failure(query_der(Query(Imprint(bytes(32))))) == (Failure.TIME_NOT_AVAILABLE,)

    authority.time.system = Synchronisation(True)
    assert len(await authority.stamp(DATA)) == 3


# --- rotation ---------------------------------------------------------------------------------------------------------


async def test_each_version_of_the_key_has_its_chain_and_old_ones_stay(authority: Authority, tmp_path: Path) -> None:
    before = await authority.stamp(DATA)
    await authority.keys.rotate(STAMPS)
    after = await authority.stamp(DATA)

    known = await Authority(tmp_path).trusted()  # as a new start finds them
    assert len(known) == 2
    assert known == await authority.trusted()
    assert known[0].valid_until is not None
    assert known[1].valid_until is None
    assert [verify_stamp(each, data, known).authority for each, data in zip(before, DATA, strict=True)] == known[:1] * 3
    assert [verify_stamp(each, data, known).authority for each, data in zip(after, DATA, strict=True)] == known[1:] * 3


async def test_rotation_under_load_fails_no_stamp(authority: Authority) -> None:
    async def stamp_until(done: asyncio.Event, stamped: list[tuple[bytes, bytes]]) -> None:
        while not done.is_set():
            data = b"%d" % len(stamped)
            [response] = await authority.stamp([data])
            stamped.append((response, data))
            more.release()
            await asyncio.sleep(0)

    done, more = asyncio.Event(), asyncio.Semaphore(0)
    stamped: list[tuple[bytes, bytes]] = []
    await authority.stamp(DATA)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(stamp_until(done, stamped))
        for _ in range(2):
            await authority.keys.rotate(STAMPS)
            for _ in range(len(stamped) + 50):
                await more.acquire()
        done.set()

    known = await authority.trusted()
    used = {known.index(verify_stamp(*each, known).authority) for each in stamped}
    assert len(known) == 3
    assert used >= {1, 2}


class RotatedMeanwhile(FileKeyring):
    """Keys that another replica rotates in the middle of a batch, as a shared Vault's may be."""

    rotations = 1

    async def sign(
        self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
    ) -> Sequence[Signature | NotaryError]:
        first = list(await super().sign(name, inputs[:1], version))
        if self.rotations:
            self.rotations -= 1
            await self.rotate(name)
        return first + list(await super().sign(name, inputs[1:], version))


async def test_a_batch_that_meets_a_rotation_is_written_anew_whole(tmp_path: Path) -> None:
    authority = Authority(tmp_path, file_catalogue(tmp_path, keyring=RotatedMeanwhile))

    responses = await authority.stamp(DATA)

    known = await authority.trusted()
    assert [verify_stamp(*each, known).authority for each in zip(responses, DATA, strict=True)] == known[-1:] * 3


async def test_a_key_that_is_rotated_again_and_again_is_given_up(tmp_path: Path) -> None:
    class Spinning(RotatedMeanwhile):
        rotations = 1000

    authority = Authority(tmp_path, file_catalogue(tmp_path, keyring=Spinning))

    with pytest.raises(Unavailable, match="again and again"):
        await authority.stamp(DATA)


# --- the key and its chain --------------------------------------------------------------------------------------------


async def test_a_wrong_signature_never_leaves(tmp_path: Path) -> None:
    class Lying(FileKeyring):
        async def sign(
            self, name: str, inputs: Sequence[bytes], version: KeyVersion | None = None
        ) -> Sequence[Signature | NotaryError]:
            return await super().sign(name, [bytes(32) for _ in inputs])

    authority = Authority(tmp_path, file_catalogue(tmp_path, keyring=Lying))

    with pytest.raises(Internal, match="did not verify"):
        await authority.stamp(DATA)
    assert await authority.failure(query_der(Query(Imprint(bytes(32))))) == (Failure.SYSTEM_FAILURE,)


async def test_a_revoked_version_stamps_nothing_until_the_key_is_rotated(authority: Authority) -> None:
    responses = await authority.stamp(DATA)
    now = datetime.now(UTC)
    await authority.keys.revoke(f"{STAMPS.name}:1", Revocation(now + timedelta(seconds=1), None, "retired"))

    with pytest.raises(FailedPrecondition, match="must be rotated"):
        await authority.stamp(DATA)
    await authority.keys.rotate(STAMPS)

    known = await authority.trusted()
    assert known[0].valid_until == now + timedelta(seconds=1)
    verify_stamp(responses[0], DATA[0], known)
    verify_stamp((await authority.stamp(DATA))[0], DATA[0], known)


async def test_stamps_do_not_count_from_when_their_key_was_compromised(authority: Authority) -> None:
    responses = await authority.stamp(DATA)
    since = datetime.now(UTC) - timedelta(minutes=1)
    await authority.keys.revoke(f"{STAMPS.name}:1", Revocation(datetime.now(UTC), since, "stolen"))
    await authority.keys.rotate(STAMPS)

    with pytest.raises(NotVerifiedError, match="do not count"):
        verify_stamp(responses[0], DATA[0], await authority.trusted())


async def test_of_a_key_compromised_since_before_it_stamped_no_stamp_counts_and_each_is_known(
    authority: Authority,
) -> None:
    responses = await authority.stamp(DATA)
    since = datetime.now(UTC) - timedelta(days=1)
    await authority.keys.revoke(f"{STAMPS.name}:1", Revocation(datetime.now(UTC), since, "stolen"))

    with pytest.raises(UncountedError, match="do not count"):
        verify_stamp(responses[0], DATA[0], await authority.trusted())


async def test_a_key_for_p384_stamps_too(tmp_path: Path) -> None:
    spec = KeySpec("stamps-384", Purpose.TIMESTAMP, P384)
    specs = (EVIDENCE, LOG, spec)
    keyring = FileKeyring.open(tmp_path / "keys", tmp_path / "passphrase", specs)
    authority = Authority(tmp_path, catalogue(tmp_path, dict.fromkeys(specs, keyring)))

    [response] = await authority.stamp(DATA[:1])

    assert verify_stamp(response, DATA[0], await authority.trusted())


@pytest.mark.parametrize("content", [b"", b"?", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_a_chain_that_was_there_and_is_damaged_is_not_made_anew(tmp_path: Path, content: bytes) -> None:
    await Authority(tmp_path).stamp(DATA)
    file = tmp_path / "tsa" / f"{STAMPS.name}:1.pem"
    file.write_bytes(content)

    with pytest.raises(DataLoss, match="restore it, do not remove it"):
        await Authority(tmp_path).stamp(DATA)


async def test_a_chain_of_another_key_is_not_taken(tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    (tmp_path / "other").mkdir(exist_ok=True)
    await other.stamp(DATA)
    file = f"tsa/{STAMPS.name}:1.pem"
    authority = Authority(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / "other" / file).read_bytes())

    with pytest.raises(DataLoss, match="is not for"):
        await authority.stamp(DATA)


def chains_in(file: Path) -> GivenChains:
    """The file, and what a signer remembers of it beside it."""
    return GivenChains(file, ExternalChains(file.with_name("given.json")))


async def given(folder: Path, keys: KeyCatalogue, *, issuer: Issuer | None = None, **options: Any) -> Path:
    """A file with a certificate of an organisation's own authority for each version of the key."""
    above = issuer or Issuer("Time at Acme", above=Issuer("Acme"))
    file = folder / "acme.pem"
    from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

    now = datetime.now(UTC)
    options = {"opened": now - timedelta(days=1), "closed": now + timedelta(days=365), **options}
    extensions = options.pop("extensions", [(TIME_STAMPING, True)])
    leaves = [
        above.issue(each.key_id, load_der_public_key(each.spki), *extensions, **options)
        for each in await keys.versions(Purpose.TIMESTAMP)
    ]
    before = file.read_text() if file.exists() else ""  # what is there stays: stamps name their certificate
    file.write_text(before + to_pem(each.public_bytes(Encoding.DER) for each in [*leaves, *above.chain]))
    return file


async def test_an_organisations_own_chain_is_taken_and_replicas_share_it(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    file = await given(tmp_path, keys)
    one, another = (Authority(tmp_path, file_catalogue(tmp_path), chains_in(file)) for _ in range(2))

    [response] = await one.stamp(DATA[:1])

    assert verify_stamp(response, DATA[0], await another.trusted())
    assert [len(each.certificates) for each in await another.trusted()] == [3]


async def signer_of(authority: Authority) -> str:
    """Which version of the key a stamp of now is by; every verifier of the trust root believes it."""
    [response] = await authority.stamp(DATA[:1])
    stamp = verify_stamp(response, DATA[0], await authority.trusted())
    return name_parts(stamp.authority.chain.authority.subject)["commonName"].rpartition("-")[2]


async def test_a_version_without_a_certificate_of_the_organisation_waits_while_the_one_before_goes_on(
    tmp_path: Path,
) -> None:
    keys = file_catalogue(tmp_path)
    issuer = Issuer("Acme")
    authority = Authority(tmp_path, keys, chains_in(await given(tmp_path, keys, issuer=issuer)))
    [before] = await authority.stamp(DATA[:1])
    await keys.rotate(STAMPS)

    assert await signer_of(authority) == "key:1"
    assert await signer_of(Authority(tmp_path, keys, chains_in(tmp_path / "acme.pem"))) == "key:1"  # as after a start
    [part] = await authority.embedded.status()
    assert part.good
    assert "afdp-file-timestamp-key:2 waits for its certificate" in part.detail
    assert "request-certificate" in part.remedy
    assert read_granted(await authority.embedded.respond(query_der(Query(Imprint(bytes(32))))))

    await given(tmp_path, keys, issuer=issuer)
    assert await signer_of(authority) == "key:1"  # it looks now and then
    authority.time.passes(11)
    assert await signer_of(authority) == "key:2"
    [part] = await authority.embedded.status()
    assert "waits" not in part.detail
    assert verify_stamp(before, DATA[0], await authority.trusted())
    assert {each.valid_until for each in await authority.trusted()} == {None}


async def test_a_certificate_may_be_renewed_and_what_was_stamped_under_the_one_before_still_verifies(
    tmp_path: Path,
) -> None:
    keys, now, issuer = file_catalogue(tmp_path), datetime.now(UTC), Issuer("Acme")
    file = await given(tmp_path, keys, issuer=issuer, opened=now - timedelta(days=9), closed=now + timedelta(days=1))
    authority = Authority(tmp_path, keys, chains_in(file))
    [before] = await authority.stamp(DATA[:1])
    await given(tmp_path, keys, issuer=issuer)
    await given(tmp_path, keys, issuer=issuer, opened=now + timedelta(days=1))  # for later
    authority.time.passes(11)

    [after] = await authority.stamp(DATA[:1])

    known = await authority.trusted()
    assert len(known) == 3
    assert [verify_stamp(each, DATA[0], known).authority for each in (before, after)] == known[:2]


async def test_a_file_of_certificates_that_was_spoilt_stops_nothing(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    file = await given(tmp_path, keys)
    authority = Authority(tmp_path, keys, chains_in(file))
    for content in ("nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ""):
        file.write_text(content)
        authority.time.passes(11)
        assert await signer_of(authority) == "key:1"
    file.unlink()
    authority.time.passes(11)
    assert await signer_of(authority) == "key:1"


async def test_a_certificate_that_was_taken_out_of_the_file_still_counts_for_what_was_stamped_under_it(
    tmp_path: Path,
) -> None:
    keys = file_catalogue(tmp_path)
    authority = Authority(tmp_path, keys, chains_in(await given(tmp_path, keys)))
    [before] = await authority.stamp(DATA[:1])
    await keys.rotate(STAMPS)
    (tmp_path / "acme.pem").unlink()
    await given(tmp_path, keys)  # by another authority, for both versions
    authority = Authority(tmp_path, keys, chains_in(tmp_path / "acme.pem"))

    assert await signer_of(authority) == "key:2"
    assert verify_stamp(before, DATA[0], await authority.trusted())


async def test_where_no_certificate_is_left_what_was_stamped_is_still_told_of(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    [before] = await Authority(tmp_path, keys, chains_in(await given(tmp_path, keys))).stamp(DATA[:1])
    stranger = await given(tmp_path / "another", file_catalogue(tmp_path / "another"))
    (tmp_path / "acme.pem").write_text(stranger.read_text())
    authority = Authority(tmp_path, keys, chains_in(tmp_path / "acme.pem"))

    assert verify_stamp(before, DATA[0], await authority.trusted())
    with pytest.raises(FailedPrecondition, match="no certificate"):
        await authority.stamp(DATA)


async def test_of_two_certificates_the_one_that_is_valid_is_taken(tmp_path: Path) -> None:
    keys, now, issuer = file_catalogue(tmp_path), datetime.now(UTC), Issuer("Acme")
    await given(tmp_path, keys, issuer=issuer)
    file = await given(tmp_path, keys, issuer=issuer, opened=now - timedelta(hours=2), closed=now - timedelta(hours=1))

    assert await signer_of(Authority(tmp_path, keys, chains_in(file))) == "key:1"


async def test_a_certificate_that_is_not_valid_yet_is_waited_for(tmp_path: Path) -> None:
    keys, now = file_catalogue(tmp_path), datetime.now(UTC)
    await given(tmp_path, keys)
    await keys.rotate(STAMPS)
    await given(tmp_path, keys, opened=now + timedelta(hours=1))

    assert await signer_of(Authority(tmp_path, keys, chains_in(tmp_path / "acme.pem"))) == "key:1"


async def test_a_version_that_was_revoked_does_not_go_on_for_one_that_waits(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    authority = Authority(tmp_path, keys, chains_in(await given(tmp_path, keys)))
    await keys.rotate(STAMPS)
    await keys.revoke("afdp-file-timestamp-key:1", Revocation(datetime.now(UTC), None, "retired"))

    with pytest.raises(FailedPrecondition, match="no certificate for afdp-file-timestamp-key:2"):
        await authority.stamp(DATA)


async def test_a_first_version_without_a_certificate_stamps_nothing(tmp_path: Path) -> None:
    stranger = await given(tmp_path, file_catalogue(tmp_path / "another"))
    authority = Authority(tmp_path, file_catalogue(tmp_path), chains_in(stranger))

    with pytest.raises(FailedPrecondition, match="no certificate for afdp-file-timestamp-key:1"):
        await authority.stamp(DATA)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extensions": [(TIME_STAMPING, False)]}, "critical extended key usage"),
        ({"extensions": []}, "critical extended key usage"),
        ({"issuer": Issuer("Acme", path_length=0, above=Issuer("Top", path_length=0))}, "issuers that may issue"),
    ],
)
async def test_an_organisations_chain_that_does_not_hold_is_refused_at_the_start(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    file = await given(tmp_path, file_catalogue(tmp_path), **options)

    with pytest.raises(FailedPrecondition, match=said):
        chains_in(file)


async def test_an_expired_certificate_stamps_nothing(tmp_path: Path) -> None:
    keys = file_catalogue(tmp_path)
    ended = datetime.now(UTC) - timedelta(days=1)
    file = await given(tmp_path, keys, opened=ended - timedelta(days=1), closed=ended)
    authority = Authority(tmp_path, keys, chains_in(file))

    with pytest.raises(FailedPrecondition, match="certificate is valid from"):
        await authority.stamp(DATA)
    [part] = await authority.embedded.status()
    assert not part.good


# --- queries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "hashed"), [(SHA256, sha256), (SHA384, sha384), (SHA512, sha512)])
@pytest.mark.parametrize("null", [True, False])
async def test_a_query_is_answered_with_what_it_asks_for(
    authority: Authority, algorithm: str, hashed: Any, null: bool
) -> None:
    imprint = Imprint(hashed(b"data").digest(), algorithm, null)
    query = Query(imprint, POLICY, nonce=2**63 + 5, wants_certificate=True)

    token = read_granted(await authority.embedded.respond(query_der(query)))

    assert token.info.imprint == imprint
    assert token.info.nonce == 2**63 + 5
    # A SET OF is sorted in DER (X.690, 11.6): strict readers take nothing else.
    assert [*token.certificates] == sorted((await authority.trusted())[0].certificates)


async def test_a_query_without_wishes_gets_neither_nonce_nor_certificate(authority: Authority) -> None:
    response = await authority.embedded.respond(query_der(Query(Imprint(sha256(b"data").digest()))))

    assert read_granted(response).certificates == ()
    assert read_granted(response).info.nonce is None
    assert verify_stamp(response, b"data", await authority.trusted())


def asn1crypto_query(**changes: Any) -> bytes:
    imprint = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": bytes(32)}
    dumped: bytes = tsp.TimeStampReq({"version": 1, "message_imprint": imprint, **changes}).dump()
    return dumped


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        (b"", Failure.BAD_DATA_FORMAT),
        (b"not DER", Failure.BAD_DATA_FORMAT),
        (query_der(Query(Imprint(bytes(32)))) + b"\0", Failure.BAD_DATA_FORMAT),
        (bytes(8193), Failure.BAD_DATA_FORMAT),
        (query_der(Query(Imprint(bytes(31)))), Failure.BAD_DATA_FORMAT),
        (query_der(Query(Imprint(bytes(32)), nonce=1 << 256)), Failure.BAD_DATA_FORMAT),
        (query_der(Query(Imprint(bytes(20), "1.3.14.3.2.26"))), Failure.BAD_ALG),
        (query_der(Query(Imprint(bytes(32), "1.2.3.4"))), Failure.BAD_ALG),
        (asn1crypto_query(version=2), Failure.BAD_REQUEST),
        (query_der(Query(Imprint(bytes(32)), "1.2.3.4")), Failure.UNACCEPTED_POLICY),
        (
            asn1crypto_query(extensions=[{"extn_id": "1.2.3", "critical": False, "extn_value": b""}]),
            Failure.UNACCEPTED_EXTENSIONS,
        ),
    ],
)
async def test_a_bad_query_is_answered_with_the_failure_that_the_rfc_has_for_it(
    authority: Authority, query: bytes, failure: Failure
) -> None:
    assert await authority.failure(query) == (failure,)


async def test_a_query_while_the_key_is_away_is_answered_too(authority: Authority) -> None:
    await authority.stamp(DATA)

    class Away:
        async def sign(self, *_: object) -> None:
            raise Unavailable("Vault cannot be reached")

        async def versions(self, *_: object) -> None:
            raise Unavailable("Vault cannot be reached")

    authority.keys._held[STAMPS.name] = (STAMPS, Away())  # type: ignore[assignment]

    assert await authority.failure(query_der(Query(Imprint(bytes(32))))) == (Failure.SYSTEM_FAILURE,)
    with pytest.raises(Unavailable, match="Vault cannot be reached"):
        await authority.stamp(DATA)
