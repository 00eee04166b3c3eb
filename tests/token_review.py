"""The one part of a Kubernetes cluster that Vault's login asks: the TokenReview API, over TLS, as a cluster has it."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.local_tls import TlsAuthority

AUDIENCE = "vault"


@dataclass
class Cluster:
    """Its accounts' tokens, which it made and may end."""

    authority: TlsAuthority
    url: str = ""
    valid: dict[str, str] = field(default_factory=dict)  # the account of each token
    reviewed: list[str] = field(default_factory=list)  # accounts, in the order they were asked for

    def token(self, namespace: str, name: str, number: int = 1) -> str:
        """A service account's token, as a projected volume has it. Vault reads its claims and has it reviewed."""
        account = {"namespace": namespace, "serviceaccount": {"name": name, "uid": f"uid-{name}"}}
        claims = {"sub": f"system:serviceaccount:{namespace}:{name}", "aud": [AUDIENCE], "kubernetes.io": account}
        now = int(time.time())
        times = {"iat": now - 60, "nbf": now - 60, "exp": now + 3600}
        parts = {"alg": "ES256", "kid": "cluster"}, {**claims, **times, "jti": str(number)}
        token = ".".join([*(_b64(json.dumps(part).encode()) for part in parts), _b64(b"\0" * 64)])
        self.valid[token] = f"{namespace}:{name}"
        return token

    def review(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The status of a TokenReview."""
        account = self.valid.get(spec["token"])
        if account is None or AUDIENCE not in spec.get("audiences", [AUDIENCE]):
            return {"authenticated": False, "error": "the token is not valid"}
        self.reviewed.append(account)
        name = account.partition(":")[2]
        user = {"username": f"system:serviceaccount:{account}", "uid": f"uid-{name}", "groups": []}
        return {"authenticated": True, "user": user, "audiences": [AUDIENCE]}


@contextmanager
def running_cluster(authority: TlsAuthority) -> Iterator[Cluster]:
    """The API on a free port."""
    cluster = Cluster(authority)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.path == "/apis/authentication.k8s.io/v1/tokenreviews"
            answer = json.dumps({**body, "status": cluster.review(body["spec"])} if known else {}).encode()
            self.send_response(201 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("cluster"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    cluster.url = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
