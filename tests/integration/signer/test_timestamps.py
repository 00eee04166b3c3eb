"""The signer as a process: what it stamps, by whom, and what it says while it does not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from rfc3161_client import VerifierBuilder, decode_timestamp_response

from afdp.embedded.process import ServerProcess, free_port
from afdp.errors import FailedPrecondition, InvalidArgument, Unavailable
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.certificates import from_pem, to_pem
from afdp.formats.merkle import Frontier, extend, leaf_hash
from afdp.formats.note import Checkpoint
from afdp.formats.rfc3161 import Failure, Imprint, Query, query_der, read_granted, read_query, read_response
from afdp.messages.signer import (
    GetSignerStatusRequest,
    GetTimestampAuthoritiesRequest,
    KeyPurpose,
    RotateKeyRequest,
    SignCheckpointRequest,
    SignerServiceClient,
    SignStatementsRequest,
    Statement,
    TimestampCheckpointRequest,
    TimestampRequest,
    TimestampSignatureRequest,
)
from afdp.rpc import GrpcCaller, open_channel
from afdp.signer.authority import EmbeddedAuthority
from afdp.signer.chains import OwnChains
from afdp.signer.config import SignerSettings
from afdp.signer.keys import P256, KeySpec, Purpose
from afdp.signer.vault.keyring import VaultKeyring
from afdp.signer.vault.memory import KeyMemory
from afdp.signer.vault.opening import open_vault
from afdp.verify.timestamps import verify_stamp
from tests.local_clock import LocalTime
from tests.local_keys import EVIDENCE, LOG, catalogue, file_catalogue
from tests.local_token import LocalToken
from tests.openssl_authority import OpensslAuthority, openssl_verifies
from tests.tsa_server import tsa_server
from tests.vault_servers import DevServer

STATEMENT = Statement("acme", b'{"_type":"https://in-toto.io/Statement/v1"}')
ORIGIN = "notary.localhost"
URI = f"https://{ORIGIN}/api/v1/timestamp"
ROOT = extend(Frontier.empty(), [leaf_hash(b"a")]).new.root()


class Signer:
    """A running signer and its client."""

    def __init__(self, client: SignerServiceClient, process: ServerProcess) -> None:
        self.client = client
        self.process = process

    async def authorities(self) -> list[TimestampAuthority]:
        found = await self.client.get_timestamp_authorities(GetTimestampAuthoritiesRequest())
        return [
            TimestampAuthority.of(
                each.url or URI, each.certificates, each.valid_from or datetime.now(UTC), each.valid_until
            )
            for each in found.authorities
        ]

    async def stamped(self) -> tuple[bytes, bytes]:
        """A signature and the response over it."""
        answer = await self.client.sign_statements(SignStatementsRequest([STATEMENT]))
        signature = answer.results[0].signature
        assert signature
        return signature.value, signature.timestamp

    async def parts(self) -> dict[str, tuple[bool, str]]:
        found = await self.client.get_signer_status(GetSignerStatusRequest())
        return {each.name: (each.good, each.detail) for each in found.parts}


@asynccontextmanager
async def running_signer(
    folder: Path, surroundings: Mapping[str, str] | None = None, **settings: str
) -> AsyncIterator[Signer]:
    port = free_port()
    given = {f"AFDP_{name.upper()}": value for name, value in settings.items()}
    common = {
        "AFDP_PORT": str(port),
        "AFDP_METRICS_PORT": "0",
        "AFDP_DATA_DIR": str(folder / "data"),
        "AFDP_TLS": "off",
    }
    environment = {**common, **given, **(surroundings or {})}
    process = await ServerProcess.spawn(
        "signer", [sys.executable, "-m", "afdp.signer"], log=folder / "signer.log", environment=environment
    )
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
            yield Signer(SignerServiceClient(GrpcCaller(channel)), process)
    finally:
        await process.stop()


@pytest.fixture
async def signer(data_folder: Path) -> AsyncIterator[Signer]:
    async with running_signer(data_folder) as running:
        yield running


async def test_a_signature_comes_with_a_timestamp_that_three_verifiers_believe(
    signer: Signer, tmp_path: Path, tool: Callable[[str], Path]
) -> None:
    tool("openssl")
    signature, response = await signer.stamped()
    [authority] = await signer.authorities()

    stamp = verify_stamp(response, signature, [authority])
    own, root = (x509.load_der_x509_certificate(each) for each in authority.certificates)
    theirs = VerifierBuilder(tsa_certificate=own, roots=[root]).build()
    assert abs((stamp.time - datetime.now(UTC)).total_seconds()) < 60
    assert theirs.verify_message(decode_timestamp_response(response), signature)
    assert openssl_verifies(tmp_path, response, signature, authority.certificates)
    assert not openssl_verifies(tmp_path, response, signature + b"!", authority.certificates)


async def test_a_query_is_answered_over_grpc_and_so_is_a_bad_one(signer: Signer) -> None:
    query = query_der(Query(Imprint(sha256(b"data").digest()), None, 7, True))

    good = await signer.client.timestamp(TimestampRequest(query))
    bad = await signer.client.timestamp(TimestampRequest(b"?"))

    assert verify_stamp(good.response, b"data", await signer.authorities())
    assert read_granted(good.response).info.nonce == 7
    assert read_response(bad.response).failures == (Failure.BAD_DATA_FORMAT,)


async def test_rotation_gives_the_authority_a_second_chain_and_a_restart_keeps_both(data_folder: Path) -> None:
    stamps = []
    async with running_signer(data_folder) as signer:
        stamps.append(await signer.stamped())
        await signer.client.rotate_key(RotateKeyRequest(KeyPurpose.TIMESTAMP))
        stamps.append(await signer.stamped())
    async with running_signer(data_folder) as signer:
        stamps.append(await signer.stamped())
        known = await signer.authorities()

    used = [known.index(verify_stamp(response, signature, known).authority) for signature, response in stamps]
    assert used == [0, 1, 1]
    assert known[0].valid_until is not None
    assert known[1].valid_until is None


async def test_without_the_embedded_authority_nothing_is_stamped(data_folder: Path) -> None:
    async with running_signer(data_folder, tsa="off") as signer:
        assert (await signer.stamped())[1] == b""
        assert await signer.authorities() == []
        with pytest.raises(FailedPrecondition, match="AFDP_TSA"):
            await signer.client.timestamp(TimestampRequest(query_der(Query(Imprint(bytes(32))))))


async def test_a_strict_signer_gives_no_signature_without_a_synchronised_clock(data_folder: Path) -> None:
    # No machine's clock is known to the nanosecond: this bound is never met, synchronised or not.
    async with running_signer(data_folder, clock="refuse", clock_max_offset_seconds="1e-9") as signer:
        with pytest.raises(Unavailable, match="no timestamps are given"):
            await signer.stamped()
        answer = await signer.client.timestamp(TimestampRequest(query_der(Query(Imprint(bytes(32))))))
        good, detail = (await signer.parts())["clock"]

    assert read_response(answer.response).failures == (Failure.TIME_NOT_AVAILABLE,)
    assert not good
    assert "timestamps are refused" in detail


async def test_a_signer_that_only_flags_goes_on_and_states_no_accuracy(data_folder: Path) -> None:
    async with running_signer(data_folder, clock_max_offset_seconds="1e-9") as signer:
        signature, response = await signer.stamped()
        stamp = verify_stamp(response, signature, await signer.authorities())

    assert stamp.accuracy is None
    assert (data_folder / "signer.log").read_text().count("the clock cannot be trusted") == 1


def _faketime() -> Path:
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return library


@pytest.mark.parametrize("step", [120, -120])
async def test_a_clock_that_is_set_while_the_signer_runs_is_noticed_and_does_not_stop_it(
    data_folder: Path, tool: Callable[[str], Path], step: int
) -> None:
    tool("faketime")
    told = data_folder / "clock"
    told.write_text("+0")
    faked = {
        "LD_PRELOAD": str(_faketime()),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with running_signer(data_folder, faked) as signer:
        first = await signer.stamped()
        told.write_text(f"{step:+d}")
        second = await signer.stamped()
        known = await signer.authorities()
        jumps = [json.loads(line) for line in (data_folder / "signer.log").read_text().splitlines()]

    before, after = (verify_stamp(response, signature, known).time for signature, response in (first, second))
    assert abs((after - before).total_seconds() - step) < 60
    [jump] = [each["seconds"] for each in jumps if each["message"] == "the clock was set"]
    assert abs(jump - step) < 1


# --- checkpoints and external authorities -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], Path]) -> OpensslAuthority:
    tool("openssl")
    return OpensslAuthority.create(tmp_path_factory.mktemp("openssl"))


def external(folder: Path, openssl: OpensslAuthority, *urls: str, **more: object) -> str:
    """The setting for these servers, all of one authority."""
    roots = folder / "roots.pem"
    roots.parent.mkdir(parents=True, exist_ok=True)
    roots.write_text(to_pem(openssl.certificates[1:]))
    return json.dumps([{"url": url, "ca_file": str(roots), **more} for url in urls])


async def sign_checkpoint(signer: Signer, entries: Sequence[bytes], before: Sequence[bytes] = ()) -> Checkpoint:
    first = extend(Frontier.empty(), [leaf_hash(each) for each in before])
    grown = extend(first.new, [leaf_hash(each) for each in entries])
    size, root = len(before) + len(entries), grown.new.root()
    proof = list(grown.consistency_proof()) if before else []
    await signer.client.sign_checkpoint(SignCheckpointRequest(ORIGIN, size, root, proof, len(before)))
    return Checkpoint(ORIGIN, size, root)


async def test_a_checkpoint_that_was_signed_here_is_stamped_from_outside(
    data_folder: Path, openssl: OpensslAuthority, tmp_path: Path
) -> None:
    async with tsa_server(openssl.reply) as server:
        setting = external(data_folder, openssl, server.url)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            checkpoint = await sign_checkpoint(signer, [b"a", b"b"])
            await sign_checkpoint(signer, [b"c"], [b"a", b"b"])  # the log has grown meanwhile
            stamped = await signer.client.timestamp_checkpoint(
                TimestampCheckpointRequest(ORIGIN, checkpoint.size, checkpoint.root)
            )
            known = await signer.authorities()

    body = checkpoint.body().encode()
    stamp = verify_stamp(stamped.response, body, known)
    assert stamped.authority == server.url
    assert stamped.time == stamp.time
    assert stamp.authority == known[-1]
    assert [each.uri for each in known] == [URI, server.url]
    assert openssl_verifies(tmp_path, stamped.response, body, openssl.certificates)


async def test_no_other_checkpoint_is_stamped(data_folder: Path, openssl: OpensslAuthority) -> None:
    async with tsa_server(openssl.reply) as server:
        setting = external(data_folder, openssl, server.url)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            await sign_checkpoint(signer, [b"a", b"b"])
            asked = len(server.queries)
            for origin, size, root in ((ORIGIN, 2, bytes(32)), (ORIGIN, 3, ROOT), ("other.example", 1, ROOT)):
                with pytest.raises(FailedPrecondition, match="none of those that were signed here"):
                    await signer.client.timestamp_checkpoint(TimestampCheckpointRequest(origin, size, root))
            with pytest.raises(InvalidArgument):
                await signer.client.timestamp_checkpoint(TimestampCheckpointRequest(ORIGIN, 2, b"short"))
            introductions = len(server.queries) - asked

    assert introductions <= 1  # the signer's own, at its start


async def test_a_chain_from_outside_is_known_before_the_first_stamp_and_after_the_authority_is_gone(
    data_folder: Path, openssl: OpensslAuthority
) -> None:
    async with tsa_server(openssl.reply) as server:
        setting = external(data_folder, openssl, server.url)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            async with asyncio.timeout(20):
                while True:
                    known = await signer.authorities()
                    if len(known) == 2:
                        break
                    await asyncio.sleep(0.05)
    async with running_signer(data_folder) as signer:
        assert await signer.authorities() == known


async def test_an_authority_that_does_not_answer_holds_up_nothing_else(
    data_folder: Path, openssl: OpensslAuthority
) -> None:
    async with tsa_server(openssl.reply) as server:
        server.answers.clear()
        setting = external(data_folder, openssl, server.url, timeout_seconds=3)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            checkpoint = await sign_checkpoint(signer, [b"a"])
            request = TimestampCheckpointRequest(ORIGIN, checkpoint.size, checkpoint.root)
            waiting = asyncio.create_task(signer.client.timestamp_checkpoint(request))
            for _ in range(2):  # once to introduce itself, once for the checkpoint
                await server.asked.acquire()
            async with asyncio.timeout(2):
                assert (await signer.stamped())[1]
            assert not waiting.done()
            with pytest.raises(Unavailable, match="within 3 seconds") as error:
                await waiting
            assert not (await signer.parts())[f"external timestamps {server.url}"][0]

    assert error.value.metadata["reason"] == "TIMEOUT"


async def test_a_signature_that_was_made_here_is_stamped_from_outside_also_by_an_older_version(
    data_folder: Path, openssl: OpensslAuthority, tmp_path: Path
) -> None:
    async with tsa_server(openssl.reply) as server:
        setting = external(data_folder, openssl, server.url)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            request = await signed_statement(signer)
            await signer.client.rotate_key(RotateKeyRequest(KeyPurpose.EVIDENCE))
            stamped = await signer.client.timestamp_signature(request)
            known = await signer.authorities()

    stamp = verify_stamp(stamped.response, request.signature, known)
    assert (stamped.authority, stamped.time) == (server.url, stamp.time)
    assert stamp.authority == known[-1]
    assert openssl_verifies(tmp_path, stamped.response, request.signature, openssl.certificates)


async def test_no_other_signature_is_stamped(data_folder: Path, openssl: OpensslAuthority) -> None:
    """Nobody makes the signer an oracle of time for bytes of their own."""
    async with tsa_server(openssl.reply) as server:
        setting = external(data_folder, openssl, server.url)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            good = await signed_statement(signer)
            asked = len(server.queries)
            for changed, field in (
                (replace(good, statement=b"{}"), "signature"),
                (replace(good, statement=b""), "statement"),
                (replace(good, statement=bytes(600_000)), "statement"),
                (replace(good, signature=b"anything"), "signature"),
                (replace(good, signature=b""), "signature"),
                (replace(good, key_id="afdp-file-key:2"), "key_id"),
                (replace(good, key_id="afdp-file-log-key:1"), "key_id"),
            ):
                with pytest.raises(InvalidArgument) as refused:
                    await signer.client.timestamp_signature(changed)
                assert [each.field for each in refused.value.fields] == [field]
            introductions = len(server.queries) - asked

    assert introductions <= 1  # the signer's own, at its start


@pytest.mark.parametrize("lie", ["NOT_A_RESPONSE", "WRONG_NONCE", "WRONG_IMPRINT", "UNKNOWN_AUTHORITY", "HTTP_STATUS"])
async def test_a_lie_about_a_signature_is_told_by_its_name_and_the_next_answer_counts(
    data_folder: Path, openssl: OpensslAuthority, tmp_path: Path, lie: str
) -> None:
    stranger = OpensslAuthority.create(tmp_path / "stranger")
    lies: dict[str, Callable[[bytes], bytes]] = {
        "NOT_A_RESPONSE": lambda _: b"nonsense",
        "WRONG_NONCE": lambda _: openssl.stamp(b"other data"),
        "WRONG_IMPRINT": lambda query: openssl.reply(of_other_data(query)),
        "UNKNOWN_AUTHORITY": stranger.reply,
        "HTTP_STATUS": openssl.reply,
    }
    async with tsa_server(lies[lie]) as server:
        server.status = 503 if lie == "HTTP_STATUS" else 200
        setting = external(data_folder, openssl, server.url)
        async with running_signer(data_folder, tsa_external=setting) as signer:
            request = await signed_statement(signer)
            with pytest.raises(Unavailable) as error:
                await signer.client.timestamp_signature(request)
            server.reply, server.status = openssl.reply, 200
            stamped = await signer.client.timestamp_signature(request)
            known = await signer.authorities()

    assert error.value.metadata["reason"] == lie
    assert verify_stamp(stamped.response, request.signature, known)


def of_other_data(query: bytes) -> bytes:
    """A query that differs in what it is over."""
    asked = read_query(query)
    return query_der(replace(asked, imprint=Imprint(sha256(b"other data").digest())))


async def signed_statement(signer: Signer) -> TimestampSignatureRequest:
    answer = await signer.client.sign_statements(SignStatementsRequest([STATEMENT]))
    made = answer.results[0].signature
    assert made
    return TimestampSignatureRequest(STATEMENT.payload, made.value, made.key_id)


async def test_without_an_external_authority_no_checkpoint_is_stamped(signer: Signer) -> None:
    checkpoint = await sign_checkpoint(signer, [b"a"])

    with pytest.raises(FailedPrecondition, match="AFDP_TSA_EXTERNAL"):
        await signer.client.timestamp_checkpoint(TimestampCheckpointRequest(ORIGIN, 1, checkpoint.root))
    with pytest.raises(FailedPrecondition, match="AFDP_TSA_EXTERNAL"):
        await signer.client.timestamp_signature(await signed_statement(signer))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"clock_reference": "http://tsa.example"}, "clock_reference must be the url of one of tsa_external"),
        ({"tsa_external": '[{"url": "http://u:p@tsa.example", "ca_file": "x"}]'}, "AFDP_TSA_EXTERNAL.0.url"),
        ({"tsa_external": '[{"url": "https://tsa.example", "ca_file": "/no/such"}]'}, "/no/such cannot be read"),
        ({"tsa_external": '[{"url": "https://tsa.example"}]'}, "ca_file"),
        ({"tsa_chain_file": "/no/such"}, "/no/such cannot be read"),
        ({"tsa_policy_oid": "my policy"}, "AFDP_TSA_POLICY_OID"),
        ({"clock": "ignore"}, "AFDP_CLOCK"),
    ],
)
async def test_a_wrong_setting_is_named_at_the_start(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    environment = {f"AFDP_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.signer"),
        env={
            "AFDP_DATA_DIR": str(tmp_path),
            "AFDP_PORT": "0",
            "AFDP_METRICS_PORT": "0",
            "AFDP_TLS": "off",
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, error = await process.communicate()

    assert process.returncode in (1, 2)
    assert said in error.decode()


# --- an organisation's own authority ----------------------------------------------------------------------------------

ISSUE = """
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout ca.key -out ca.pem -days 30 -subj /O=Acme \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
"$PYTHON" -m afdp.signer request-certificate > request.pem
openssl req -in request.pem -verify -noout
openssl x509 -req -in request.pem -copy_extensions copy -CA ca.pem -CAkey ca.key -days 7 -out own.pem
cat own.pem ca.pem > chain.pem
"""


async def test_an_organisations_own_authority_gives_the_certificate_that_the_key_asks_for(
    data_folder: Path, tool: Callable[[str], Path]
) -> None:
    tool("openssl")
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", ISSUE),
        cwd=data_folder,
        env={**os.environ, "PYTHON": sys.executable, "AFDP_DATA_DIR": str(data_folder / "data")},
    )
    assert await process.wait() == 0

    async with running_signer(data_folder, tsa_chain_file=str(data_folder / "chain.pem")) as signer:
        signature, response = await signer.stamped()
        [authority] = await signer.authorities()

    assert list(authority.certificates) == from_pem((data_folder / "chain.pem").read_text())
    assert verify_stamp(response, signature, [authority])


# --- the key elsewhere ------------------------------------------------------------------------------------------------


async def test_the_authoritys_key_may_be_in_vault_and_rotate_there(vault: DevServer, tmp_path: Path) -> None:
    stamps = KeySpec("afdp-timestamp-key", Purpose.TIMESTAMP, P256)
    data = [b"%d" % number for number in range(300)]  # more than one call of Vault takes
    imprints = [sha256(each).digest() for each in data]
    admin = vault.logins.key_admin
    assert admin
    login = {"vault_admin_role_id_file": admin / "role-id", "vault_admin_secret_id_file": admin / "secret-id"}
    async with open_vault(SignerSettings(**vault.settings(vault_admin_auth="approle", **login))) as opened:
        keyring = VaultKeyring(opened, KeyMemory(tmp_path / "vault-keys.json"), [stamps])
        files = file_catalogue(tmp_path)
        keys = catalogue(tmp_path, {EVIDENCE: files.keyrings[0], LOG: files.keyrings[0], stamps: keyring})
        authority = EmbeddedAuthority(keys, OwnChains(tmp_path / "tsa", ORIGIN), LocalTime().clock(), "1.2.3")
        before = await authority.stamp(imprints)
        transit = vault.client().secrets.transit
        await asyncio.to_thread(transit.rotate_key, stamps.name, mount_point="afdp-transit")  # by somebody else
        after = await authority.stamp(imprints)
        known = [
            TimestampAuthority.of(URI, [c.der for c in each.chain.certificates], each.valid_from, each.valid_until)
            for each in await authority.intervals()
        ]

    assert len(known) >= 2
    assert {verify_stamp(*each, known).authority for each in zip(before, data, strict=True)} == {known[-2]}
    assert {verify_stamp(*each, known).authority for each in zip(after, data, strict=True)} == {known[-1]}


async def test_the_authoritys_key_may_be_in_a_token_and_rotate_there(
    data_folder: Path, tool: Callable[[str], Path]
) -> None:
    token = LocalToken.make(data_folder / "token", tool("softhsm2-util"))
    settings = {
        "timestamp_keys": "pkcs11",
        "pkcs11_module": str(token.module),
        "pkcs11_token_label": token.label,
        "pkcs11_pin_file": str(token.pin_file),
    }
    environment = {f"AFDP_{name.upper()}": value for name, value in settings.items()}
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "afdp.signer", "create-keys"),
        env={"AFDP_DATA_DIR": str(data_folder / "data"), **environment, **token.environment},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0

    async with running_signer(data_folder, token.environment, **settings) as signer:
        first = await signer.stamped()
        await signer.client.rotate_key(RotateKeyRequest(KeyPurpose.TIMESTAMP))
        second = await signer.stamped()
        known = await signer.authorities()

    used = [known.index(verify_stamp(response, signature, known).authority) for signature, response in (first, second)]
    assert used == [0, 1]
