"""Asks one service how it is: exit status 0 if it serves, 1 with the reason on standard error if it does not.

    python healthcheck.py http://127.0.0.1:3030/health
    python healthcheck.py grpc://127.0.0.1:50052

The second speaks grpc.health.v1, whose answer is NOT_SERVING while the service lacks something that it depends on.
"""

import sys
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

TIMEOUT = 3.0  # seconds


def over_http(url: str) -> str:
    """Why the URL does not answer with 2xx; empty if it does."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT):
            return ""
    except (URLError, TimeoutError, ConnectionError) as error:
        return str(error)


def over_grpc(address: str) -> str:
    """Why the server at `host:port` does not serve; empty if it does."""
    import grpc  # the gateway's check has no need of it, and it takes a while
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub: Any = HealthStub(channel)  # its types know asynchronous channels only
            answer = stub.Check(HealthCheckRequest(), timeout=TIMEOUT)
        except grpc.RpcError as error:
            return str(error.details())
    return "" if answer.status == HealthCheckResponse.SERVING else "it says that it is not serving"


def main(url: str) -> int:
    """The exit status."""
    reason = over_grpc(urlsplit(url).netloc) if url.startswith("grpc://") else over_http(url)
    if reason:
        print(f"{url}: {reason}", file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
