"""What the REST client makes of servers that are not, or not quite, a notary."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from afdp.client import AsyncNotaryClient, NotaryClient, Retry
from afdp.client.errors import UnexpectedAnswer, Unreachable
from afdp.errors import PayloadTooLarge, Unavailable

Reply = tuple[int, dict[str, str], bytes]
ONCE = Retry(attempts=1)


@pytest.fixture
def serving() -> Iterator[Callable[[Reply | None], tuple[str, list[BaseHTTPRequestHandler]]]]:
    """`url, requests = serving((status, headers, body))`; None breaks the connection instead of answering."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def serve(reply: Reply | None) -> tuple[str, list[BaseHTTPRequestHandler]]:
        requests: list[BaseHTTPRequestHandler] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self)
                if reply is None:
                    self.connection.close()
                    return
                status, headers, body = reply
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", requests

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


Serving = Callable[[Reply | None], tuple[str, list[BaseHTTPRequestHandler]]]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"keys": [{"key_id": 7}]}'])
def test_an_answer_that_is_not_a_notarys_is_unexpected(body: bytes, serving: Serving) -> None:
    url, _ = serving((200, {}, body))

    with NotaryClient(url, retry=ONCE) as client, pytest.raises(UnexpectedAnswer, match=url):
        client.list_keys()


def test_a_member_that_a_newer_notary_has_is_passed_over(serving: Serving) -> None:
    url, _ = serving((200, {}, b'{"keys": [], "colour": "blue"}'))

    with NotaryClient(url) as client:
        assert client.list_keys() == ()


def test_a_proxys_page_counts_by_its_status_and_keeps_the_wait_it_asks_for(serving: Serving) -> None:
    url, _ = serving((503, {"retry-after": "60"}, b"<html>busy</html>"))

    with NotaryClient(url) as client, pytest.raises(Unavailable, match="answered 503") as refused:
        client.list_keys()
    assert refused.value.retry_after == 60


def test_a_problem_keeps_its_own_kind_and_the_request_id(serving: Serving) -> None:
    problem = b'{"code": "INVALID_ARGUMENT", "detail": "the body is too large", "request_id": "r-1", "errors": []}'
    url, _ = serving((413, {}, problem))

    with NotaryClient(url) as client, pytest.raises(PayloadTooLarge, match="the body is too large") as refused:
        client.list_keys()
    assert refused.value.metadata == {"request_id": "r-1"}


def test_a_connection_that_breaks_is_tried_again_and_then_unreachable(serving: Serving) -> None:
    url, requests = serving(None)

    with (
        NotaryClient(url, retry=Retry(attempts=3, first_delay=0.001)) as client,
        pytest.raises(Unreachable, match="broke"),
    ):
        client.list_keys()
    assert len(requests) == 3


def test_headers_are_sent_with_every_request_and_the_path_is_quoted(serving: Serving) -> None:
    url, requests = serving((200, {}, b'{"receipts": [], "next_page_token": ""}'))

    with NotaryClient(url, headers={"authorization": "Bearer abc"}) as client:
        client.affected_receipts("a/b?c:1", page_size=5)

    [request] = requests
    assert request.path == "/api/v1/keys/a%2Fb%3Fc%3A1/receipts?page_size=5"
    assert request.headers["authorization"] == "Bearer abc"


def test_every_method_is_on_both_clients_with_the_same_signature_and_help() -> None:
    names = [name for name in vars(NotaryClient) if not name.startswith("_") and name != "over_grpc"]

    assert {"sign", "sign_batch", "validate", "trust_root", "ready", "close"} <= set(names)
    for name in names:
        blocking, awaitable = getattr(NotaryClient, name), getattr(AsyncNotaryClient, name)
        assert [*inspect.signature(blocking).parameters] == [*inspect.signature(awaitable).parameters]
        assert blocking.__doc__
        assert awaitable.__doc__
    assert [*inspect.signature(NotaryClient.get_receipt).parameters] == ["self", "receipt_id"]
