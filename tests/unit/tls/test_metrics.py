"""The metrics' port over TLS, before anybody is known."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from time import monotonic

import httpx
import pytest

from afdp.certs.authority import Authority
from afdp.certs.names import Names
from afdp.config import ServiceSettings
from afdp.telemetry import metrics


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.make(tmp_path / "tls", "afdp.internal")
    made.issue("notary", Names.of_service("notary", "afdp.internal", Names()))
    return made


@pytest.fixture
def port(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(metrics, "_MOST", 3)
    monkeypatch.setattr(metrics, "HANDSHAKE_SECONDS", 600.0)
    monkeypatch.setattr(metrics, "_CONNECTION_SECONDS", 600.0)
    own = authority.issued("notary")
    files = {"tls_cert": own.cert, "tls_key": own.key, "tls_ca": authority.file}
    settings = ServiceSettings.model_validate({"port": 0, "metrics_port": 0, "tls": "required", **files})
    server = metrics.start_metrics(settings)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_strangers_take_no_more_than_a_few_threads_and_only_for_a_while(
    authority: Authority, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stranger() -> socket.socket:
        return connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))

    with ExitStack() as connections:
        waiting = [stranger() for _ in range(3)]
        assert stranger().recv(1) == b""  # one too many: closed at once
        leaps = count(0.0, 700.0)
        monkeypatch.setattr(metrics, "monotonic", lambda: next(leaps) + monotonic())
        assert [each.recv(1) for each in waiting] == [b"", b"", b""]  # and these, when their time is over

    monkeypatch.setattr(metrics, "monotonic", monotonic)
    own = authority.issued("notary")
    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(own.cert, own.key)
    again = httpx.HTTPTransport(verify=context, retries=6)  # a thread ends a little after its connection
    with httpx.Client(transport=again, timeout=30) as client:
        answer = client.get(f"https://localhost:{port}/metrics")
    assert "afdp_tls_certificate_expires_timestamp_seconds" in answer.text
