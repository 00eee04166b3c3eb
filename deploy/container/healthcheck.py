"""Asks one service how it is: exit status 0 if it serves, 1 with the reason on standard error if it does not.

    python healthcheck.py http://127.0.0.1:3030/health
    python healthcheck.py grpc://127.0.0.1:50052
    python healthcheck.py grpc://127.0.0.1:50052/liveness

The others speak grpc.health.v1, whose answer is NOT_SERVING while the service lacks something that it depends on;
`liveness` is SERVING for as long as it answers. Where the service's environment has AFDP_TLS, so has the question: it
shows the service's own certificate, and takes whatever the service's authorities have issued for this address or for
localhost.
"""

import os
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

TIMEOUT = 3.0  # seconds


def over_http(url: str) -> str:
    """Why the URL does not answer with 2xx; empty if it does."""
    handlers: list[Any] = [ProxyHandler({})]
    if files := tls_files():
        ca, cert, key = files
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(cert, key)
        handlers.append(HTTPSHandler(context=context))
        url = url.replace("http://127.0.0.1", "https://localhost", 1)
    try:
        with build_opener(*handlers).open(url, timeout=TIMEOUT):
            return ""
    except (URLError, TimeoutError, ConnectionError) as error:
        return str(error)


def over_grpc(address: str, service: str) -> str:
    """Why the service at `host:port` does not serve, or the server itself if it is not named; empty if it does."""
    # The suites of TLS 1.2: one that nobody can use, see afdp.tls.modern.
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-PSK-CHACHA20-POLY1305"
    import grpc  # the gateway's check has no need of it, and it takes a while
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", "localhost")]
    if files := tls_files():
        ca, cert, key = (Path(file).read_bytes() for file in files)
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        try:
            stub: Any = HealthStub(channel)  # its types know asynchronous channels only
            answer = stub.Check(HealthCheckRequest(service=service), timeout=TIMEOUT)
        except grpc.RpcError as error:
            return str(error.details())
    return "" if answer.status == HealthCheckResponse.SERVING else "it says that it is not serving"


def tls_files() -> tuple[str, str, str] | None:
    """Authorities, certificate and key of the service that is asked; None where it speaks plain text."""
    if os.environ.get("AFDP_TLS") != "required":
        return None
    ca, cert, key = (os.environ[f"AFDP_TLS_{name}"] for name in ("CA", "CERT", "KEY"))
    return ca, cert, key


def main(url: str) -> int:
    """The exit status."""
    parts = urlsplit(url)
    reason = over_grpc(parts.netloc, parts.path.strip("/")) if parts.scheme == "grpc" else over_http(url)
    if reason:
        print(f"{url}: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
