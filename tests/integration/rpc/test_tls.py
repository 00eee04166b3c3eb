"""gRPC over TLS, over real sockets: who is let in, and what happens when certificates change."""

import asyncio
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import time
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from opentelemetry.sdk.trace import TracerProvider

from afdp.certs.authority import Authority, Issued
from afdp.certs.names import Names
from afdp.config import ServiceSettings
from afdp.embedded.process import free_port
from afdp.errors import NotaryError, PermissionDenied, Unauthenticated, Unavailable
from afdp.messages.notary import (
    GetReceiptRequest,
    GetReceiptResponse,
    NotaryServiceBase,
    NotaryServiceClient,
    SignEvidenceStreamRequest,
    SignEvidenceStreamResponse,
)
from afdp.messages.signer import (
    SignCheckpointRequest,
    SignCheckpointResponse,
    SignerServiceBase,
    SignerServiceClient,
    SignStatementsRequest,
    SignStatementsResponse,
)
from afdp.notary.config import NotarySettings
from afdp.rpc import GrpcCaller, open_channel, relayed
from afdp.rpc.caller import Caller, caller
from afdp.rpc.descriptors import Method, service_methods
from afdp.rpc.peers import FORWARDED_ADDRESS, FORWARDED_CERTIFICATE
from afdp.rpc.server import running_server
from afdp.telemetry import Telemetry
from afdp.tls.files import TlsFiles
from afdp.tls.material import load_material
from tests.forged_certificates import forge

DOMAIN = "afdp.internal"
ALICE = Names(uris=(f"spiffe://{DOMAIN}/user/alice",))


class Door(NotaryServiceBase):
    """Remembers who called."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []

    async def get_receipt(self, request: GetReceiptRequest) -> GetReceiptResponse:
        self.callers.append(caller.get())
        return GetReceiptResponse()

    async def sign_evidence_stream(
        self, requests: AsyncIterator[SignEvidenceStreamRequest]
    ) -> AsyncIterator[SignEvidenceStreamResponse]:
        async for _ in requests:
            yield SignEvidenceStreamResponse()


class Keys(SignerServiceBase):
    """Signs nothing, for whoever may ask."""

    async def sign_statements(self, request: SignStatementsRequest) -> SignStatementsResponse:
        return SignStatementsResponse()

    async def sign_checkpoint(self, request: SignCheckpointRequest) -> SignCheckpointResponse:
        return SignCheckpointResponse()


@dataclass
class Pki:
    """An authority, and what it issued for all services."""

    folder: Path
    authority: Authority
    more: dict[str, Any] = field(default_factory=dict)

    def settings(self, service: str) -> dict[str, Any]:
        issued = self.authority.issued(service)
        files = {"tls_cert": issued.cert, "tls_key": issued.key, "tls_ca": self.authority.file}
        more = {"tls_crl": self.authority.list_file, **self.more}
        return {"port": 0, "metrics_port": 0, "drain_seconds": 0.5, "tls": "required", **files, **more}

    def files(self, service: str) -> TlsFiles:
        settings = ServiceSettings(**self.settings(service))
        assert settings.tls_paths is not None
        return TlsFiles(settings.tls_paths, settings.tls_names)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    authority = Authority.make(tmp_path / "tls", DOMAIN)
    for service in ("gateway", "notary", "signer", "transparency", "metadata"):
        authority.issue(service, Names.of_service(service, DOMAIN, Names()))
    authority.issue("alice", ALICE, server=False)
    return Pki(tmp_path, authority)


@dataclass
class Server:
    door: Door
    port: int
    files: TlsFiles
    refused: list[str]  # why, as who keeps the record is told

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def notary(pki: Pki, **more: Any) -> AsyncIterator[Server]:
    door, files = Door(), pki.files("notary")
    telemetry = Telemetry("door", TracerProvider())
    settings, told = NotarySettings(**pki.settings("notary"), **more), list[str]()

    async def admit(method: Method, refused: NotaryError | None) -> None:
        if refused is not None:
            told.append(str(refused.__cause__))

    async with running_server(door, settings, telemetry, admit=admit, tls=files, relay=True) as port:
        yield Server(door, port, files, told)


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[Server]:
    async with notary(pki) as running:
        yield running


def shown(pki: Pki, issued: Issued | None) -> grpc.ChannelCredentials:
    root = pki.authority.file.read_bytes()
    if issued is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, issued.key.read_bytes(), issued.cert.read_bytes())


@asynccontextmanager
async def client(pki: Pki, server: Server, name: str | Issued | None) -> AsyncIterator[NotaryServiceClient]:
    issued = pki.authority.issued(name) if isinstance(name, str) else name
    async with open_channel(server.address, tls=shown(pki, issued)) as channel:
        yield NotaryServiceClient(GrpcCaller(channel))


async def test_a_client_is_known_by_its_certificate(pki: Pki, server: Server) -> None:
    async with client(pki, server, "alice") as alice:
        await alice.get_receipt(GetReceiptRequest("r"))

    (known,) = server.door.callers
    assert known.certificate is not None
    assert known.certificate.uris == ALICE.uris
    assert known.address == "127.0.0.1"


@pytest.mark.parametrize(
    "intruder",
    ["none", "self-signed", "another authority", "expired", "a name not permitted", "another's service"],
)
async def test_whoever_has_no_certificate_that_counts_gets_no_connection(
    pki: Pki, server: Server, intruder: str
) -> None:
    other = Authority.make(pki.folder / "other", DOMAIN)
    folder, service = pki.folder / "forged", Names.of_service("gateway", DOMAIN, Names())
    issued = {
        "none": lambda: None,
        "self-signed": lambda: forge(folder, ALICE),
        "another authority": lambda: other.issue("alice", ALICE),
        "expired": lambda: forge(folder, ALICE, pki.authority, days=-1),
        "a name not permitted": lambda: forge(folder, Names(dns=("notary.example.org",)), pki.authority),
        "another's service": lambda: other.issue("gateway", service),
    }[intruder]()

    async with grpc.aio.secure_channel(server.address, shown(pki, issued)) as channel:
        call = channel.unary_unary("/afdp.notary.v1.NotaryService/GetReceipt")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not server.door.callers


async def test_plain_text_and_tls_1_2_get_no_connection(pki: Pki, server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/afdp.notary.v1.NotaryService/GetReceipt")(b"", timeout=5)
    spoken = {version: await handshake(pki, server.port, version) for version in ("-tls1_2", "-tls1_3")}

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "New, (NONE), Cipher is (NONE)" in spoken["-tls1_2"]
    assert "New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384" in spoken["-tls1_3"]
    assert not server.door.callers


async def handshake(pki: Pki, port: int, version: str) -> str:
    issued = pki.authority.issued("alice")
    files = ["-CAfile", pki.authority.file, "-cert", issued.cert, "-key", issued.key]
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-alpn", "h2"),
        *map(str, files),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said.decode(errors="replace")


async def test_a_revoked_certificate_is_refused_on_a_connection_that_stands(pki: Pki, server: Server) -> None:
    async with open_channel(server.address, tls=shown(pki, pki.authority.issued("alice"))) as channel:
        alice, health = NotaryServiceClient(GrpcCaller(channel)), HealthStub(channel)
        await alice.get_receipt(GetReceiptRequest("before"))
        await health.Check(HealthCheckRequest(), timeout=5)
        pki.authority.revoke("alice")
        taken = asyncio.Event()
        server.files.subscribe(lambda _: taken.set())
        watch = asyncio.create_task(server.files.run())
        async with asyncio.timeout(30):
            await taken.wait()
        watch.cancel()

        with pytest.raises(Unauthenticated) as refused:
            await alice.get_receipt(GetReceiptRequest("after"))
        with pytest.raises(grpc.aio.AioRpcError) as unwell:
            await health.Check(HealthCheckRequest(), timeout=5)

    assert str(refused.value) == "the credentials are missing or not valid"
    assert unwell.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.refused == ["the certificate is revoked"]
    assert len(server.door.callers) == 1


async def test_a_revoked_certificate_is_refused_in_a_stream_that_goes_on(pki: Pki, server: Server) -> None:
    async with open_channel(server.address, tls=shown(pki, pki.authority.issued("alice"))) as channel:
        stream = channel.stream_stream("/afdp.notary.v1.NotaryService/SignEvidenceStream")()
        await stream.write(b"")
        assert await stream.read() == b""
        pki.authority.revoke("alice")
        server.files.refresh()
        await stream.write(b"")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.refused == ["the certificate is revoked"]


async def test_a_certificate_whose_time_is_over_is_refused_on_a_connection_that_stands(
    pki: Pki, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_channel(server.address, tls=shown(pki, pki.authority.issued("alice"))) as channel:
        alice = NotaryServiceClient(GrpcCaller(channel))
        await alice.get_receipt(GetReceiptRequest("before"))
        monkeypatch.setattr("afdp.tls.peers.time", lambda: time() + timedelta(days=31).total_seconds())
        with pytest.raises(Unauthenticated) as refused:
            await alice.get_receipt(GetReceiptRequest("after"))

    assert str(refused.value) == "the credentials are missing or not valid"
    assert server.refused == ["the certificate is not valid now"]


async def test_a_service_whose_certificate_is_over_is_away_until_it_has_a_new_one(pki: Pki) -> None:
    own, names = pki.authority.issued("signer"), Names.of_service("signer", DOMAIN, Names())
    over = forge(pki.folder / "over", names, pki.authority, days=-1)
    own.cert.write_bytes(over.cert.read_bytes())
    own.key.write_bytes(over.key.read_bytes())
    files, telemetry = pki.files("signer"), Telemetry("keys", TracerProvider())
    async with (
        running_server(Keys(), ServiceSettings(**pki.settings("signer")), telemetry, tls=files) as port,
        open_channel(f"127.0.0.1:{port}", tls=pki.files("notary"), service="signer") as channel,
    ):
        keys = SignerServiceClient(GrpcCaller(channel))
        with pytest.raises(Unavailable):
            await keys.sign_statements(SignStatementsRequest(), timeout=20)
        renewed = pki.authority.issue("renewed", names)
        renewed.key.replace(own.key)
        renewed.cert.replace(own.cert)
        files.refresh()
        async with asyncio.timeout(60):
            while True:
                with suppress(Unavailable):  # the channel tries anew by its own pace
                    await keys.sign_statements(SignStatementsRequest(), timeout=20)
                    break
                await asyncio.sleep(0.1)


async def test_certificates_keys_and_authorities_change_under_load_and_no_call_fails(pki: Pki, server: Server) -> None:
    files, done = pki.files("gateway"), asyncio.Event()
    calls = asyncio.Semaphore(0)

    async def ask(notary: NotaryServiceClient) -> None:
        while not done.is_set():
            await notary.get_receipt(GetReceiptRequest("r"))
            calls.release()

    async def more_calls() -> None:
        nonlocal calls
        calls = asyncio.Semaphore(0)
        async with asyncio.timeout(30):
            for _ in range(50):
                await calls.acquire()

    def newer(each: TlsFiles) -> None:
        paths = NotarySettings(**pki.settings("notary" if each is server.files else "gateway")).tls_paths
        assert paths is not None
        each.take(load_material(paths))

    async with (
        open_channel(server.address, tls=files, service="notary") as channel,
        asyncio.TaskGroup() as tasks,
    ):
        client = NotaryServiceClient(GrpcCaller(channel))
        for _ in range(8):
            tasks.create_task(ask(client))
        await more_calls()
        first = await certificate_at(server.port)
        for _ in range(3):
            for name, each in (("notary", server.files), ("gateway", files)):
                pki.authority.renew(name)
                newer(each)
                await more_calls()
        # The authority itself: both believe the old and the new one, then each changes, then the old one goes.
        following = Authority.make(pki.folder / "following", DOMAIN)
        old = pki.authority.file.read_bytes()
        pki.authority.file.write_bytes(old + following.file.read_bytes())
        for each in (server.files, files):
            newer(each)
        for name, each in (("notary", server.files), ("gateway", files)):
            issued = following.issue(name, Names.of_service(name, DOMAIN, Names()))
            target = pki.authority.issued(name)
            issued.key.replace(target.key)
            issued.cert.replace(target.cert)
            newer(each)
            await more_calls()
        pki.authority.list_file.write_bytes(following.list_file.read_bytes())
        pki.authority.file.write_bytes(following.file.read_bytes())
        for each in (server.files, files):
            newer(each)
        await more_calls()
        done.set()

    assert await certificate_at(server.port) != first


async def certificate_at(port: int) -> bytes:
    """What a server shows, whether it likes us or not."""
    command = ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2", "-servername", "localhost")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    said, _ = await process.communicate()
    begin = said.index(b"-----BEGIN")
    return said[begin : said.index(b"-----END", begin)]


async def test_spoilt_files_change_nothing(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    files = pki.files("notary")
    before = files.material
    pki.authority.issued("notary").key.write_bytes(pki.authority.issued("signer").key.read_bytes())

    assert files._newer() is None  # what `run` does each second

    assert files.material is before
    assert "do not serve" in caplog.text


@pytest.fixture
async def signer(pki: Pki) -> AsyncIterator[str]:
    telemetry = Telemetry("keys", TracerProvider())
    settings = ServiceSettings(**pki.settings("signer"))
    async with running_server(Keys(), settings, telemetry, tls=pki.files("signer")) as port:
        yield f"127.0.0.1:{port}"


async def test_only_the_services_that_a_method_names_may_call_it(
    pki: Pki, signer: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = {}
    for name in ("notary", "transparency", "gateway", "metadata", "alice"):
        async with open_channel(signer, tls=shown(pki, pki.authority.issued(name))) as channel:
            client = SignerServiceClient(GrpcCaller(channel))
            outcomes[name] = (
                await outcome(client.sign_statements(SignStatementsRequest())),
                await outcome(client.sign_checkpoint(SignCheckpointRequest())),
            )

    assert outcomes == {
        "notary": (None, PermissionDenied),
        "transparency": (PermissionDenied, None),
        "gateway": (PermissionDenied, PermissionDenied),
        "metadata": (PermissionDenied, PermissionDenied),
        "alice": (PermissionDenied, PermissionDenied),
    }
    assert "a peer is refused" in caplog.text


async def outcome(call: Any) -> type[Exception] | None:
    try:
        await call
    except PermissionDenied as error:
        return type(error)
    return None


async def test_a_service_is_known_by_a_spiffe_id_too(pki: Pki) -> None:
    workload = Names(uris=("spiffe://afdp.internal/ns/prod/sa/notary",))
    pki.authority.issue("workload", workload)
    pki.more = {"tls_names": {"notary": workload.uris}}
    async with (
        running_server(
            Keys(), ServiceSettings(**pki.settings("signer")), Telemetry("k", TracerProvider()), tls=pki.files("signer")
        ) as port,
        open_channel(f"127.0.0.1:{port}", tls=shown(pki, pki.authority.issued("workload"))) as channel,
    ):
        await SignerServiceClient(GrpcCaller(channel)).sign_statements(SignStatementsRequest())


async def test_a_client_of_a_service_talks_to_no_other_that_stands_at_its_address(pki: Pki, signer: str) -> None:
    async with open_channel(signer, tls=pki.files("gateway"), service="notary") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await HealthStub(channel).Check(HealthCheckRequest(), timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_name_of_a_service_from_an_authority_of_callers_makes_nobody_a_service(pki: Pki) -> None:
    callers = Authority.make(pki.folder / "callers", DOMAIN)
    gateway = callers.issue("gateway", Names.of_service("gateway", DOMAIN, Names()))
    pki.more = {"tls_client_ca": callers.file}
    async with notary(pki) as server, grpc.aio.secure_channel(server.address, shown(pki, gateway)) as channel:
        call = channel.unary_unary("/afdp.notary.v1.NotaryService/GetReceipt")
        await call(b"", timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=5, metadata=[(FORWARDED_ADDRESS, "192.0.2.7")])

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    (known,) = server.door.callers
    assert known.certificate is not None


async def test_the_gateway_alone_is_believed_when_it_hands_on_a_client(pki: Pki, server: Server) -> None:
    alice = x509.load_pem_x509_certificate(pki.authority.issued("alice").cert.read_bytes())
    handed_on = [
        (FORWARDED_CERTIFICATE, b64encode(alice.public_bytes(Encoding.DER)).decode()),
        (FORWARDED_ADDRESS, "192.0.2.7"),
    ]
    codes = {}
    for name in ("gateway", "alice", "signer"):
        async with grpc.aio.secure_channel(server.address, shown(pki, pki.authority.issued(name))) as channel:
            call = channel.unary_unary("/afdp.notary.v1.NotaryService/GetReceipt")(b"", timeout=5, metadata=handed_on)
            codes[name] = await call.code()
    async with client(pki, server, "gateway") as gateway:
        await gateway.get_receipt(GetReceiptRequest("nobody's"))

    refused = grpc.StatusCode.PERMISSION_DENIED
    assert codes == {"gateway": grpc.StatusCode.OK, "alice": refused, "signer": refused}
    believed, unnamed = server.door.callers
    assert believed.certificate is not None
    assert (believed.certificate.uris, believed.address) == (ALICE.uris, "192.0.2.7")
    assert unnamed == Caller()


async def test_a_port_for_tokens_asks_for_no_certificate_and_believes_none_that_is_handed_on(pki: Pki) -> None:
    method, port = "/afdp.notary.v1.NotaryService/GetReceipt", free_port()
    handed_on = [(FORWARDED_CERTIFICATE, "AAAA"), (FORWARDED_ADDRESS, "192.0.2.7")]
    async with notary(pki, token_port=port) as server:
        stranger = shown(pki, None)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", stranger) as channel:
            await channel.unary_unary(method)(b"", timeout=20, metadata=[("authorization", "Bearer t")])
            await HealthStub(channel).Check(HealthCheckRequest(), timeout=20)
            told = await channel.unary_unary(method)(b"", timeout=20, metadata=handed_on).code()
            relay = channel.stream_stream(f"/{relayed.SERVICE}/Relay")(iter([b""]), timeout=20)
            with suppress(grpc.aio.AioRpcError):
                assert [each async for each in relay]
            shared = await relay.code()
        async with grpc.aio.secure_channel(server.address, stranger) as channel:
            other = await channel.unary_unary(method)(b"", timeout=20).code()
        async with client(pki, server, "gateway") as gateway:
            await gateway.get_receipt(GetReceiptRequest("nobody's"))
        spoken = await handshake(pki, port, "-tls1_2")

    assert server.door.callers == [Caller("Bearer t", None, "127.0.0.1"), Caller()]
    refused = grpc.StatusCode.PERMISSION_DENIED
    assert (told, shared, other) == (refused, refused, grpc.StatusCode.UNAVAILABLE)
    assert "New, (NONE), Cipher is (NONE)" in spoken


async def test_only_the_gateway_may_have_its_calls_share_a_stream_and_is_believed_there_too(
    pki: Pki, server: Server
) -> None:
    alice = x509.load_pem_x509_certificate(pki.authority.issued("alice").cert.read_bytes())
    call = relayed.Request()
    made = call.calls.add(id=1, method="/afdp.notary.v1.NotaryService/GetReceipt", timeout_ms=20_000)
    made.headers.add(name=FORWARDED_CERTIFICATE, value=b64encode(alice.public_bytes(Encoding.DER)).decode())
    made.headers.add(name=FORWARDED_ADDRESS, value="192.0.2.7")
    codes = {}
    for name in ("gateway", "alice", "signer"):
        async with grpc.aio.secure_channel(server.address, shown(pki, pki.authority.issued(name))) as channel:
            stream = channel.stream_stream(f"/{relayed.SERVICE}/Relay")(iter([call.SerializeToString()]), timeout=20)
            with suppress(grpc.aio.AioRpcError):
                assert [each async for each in stream]
            codes[name] = await stream.code()

    refused = grpc.StatusCode.PERMISSION_DENIED
    assert codes == {"gateway": grpc.StatusCode.OK, "alice": refused, "signer": refused}
    (believed,) = server.door.callers
    assert believed.certificate is not None
    assert (believed.certificate.uris, believed.address) == (ALICE.uris, "192.0.2.7")


def test_every_internal_method_names_its_callers_and_no_public_one_does() -> None:
    for name in ("signer", "transparency", "metadata"):
        for method in service_methods(f"afdp.{name}.v1.{name.capitalize()}Service"):
            assert set(method.callers) <= {"notary", "transparency", "metadata"}, method.full_name
            assert method.callers, method.full_name
    for service in ("afdp.relay.v1.RelayService", "afdp.edge.v1.EdgeService"):
        assert [method.callers for method in service_methods(service)] == [("gateway",)]
    assert not any(method.callers for method in service_methods("afdp.notary.v1.NotaryService"))
