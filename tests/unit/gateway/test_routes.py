"""Which method a path means."""

from __future__ import annotations

import pytest

from afdp.errors import InvalidArgument
from afdp.gateway.routes import Route, RouteTable, decoded, template_variables

TEMPLATES = [
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys:rotate"),
    ("POST", "/v1/keys/{key_id}:revoke"),
    ("GET", "/v1/keys/{key_id}/receipts"),
    ("GET", "/v1/keys/{key_id}"),
    ("GET", "/v1/keys/newest"),
    ("GET", "/v1/files/{name=**}"),
    ("GET", "/v1/shelves/{name=shelves/*}/books"),
]
TABLE = RouteTable(Route(verb, template, f"{verb} {template}") for verb, template in TEMPLATES)


@pytest.mark.parametrize(
    ("request_line", "template", "variables"),
    [
        ("GET /v1/keys", "/v1/keys", {}),
        ("HEAD /v1/keys", "/v1/keys", {}),
        ("GET /v1/%6beys", "/v1/keys", {}),
        ("POST /v1/keys:rotate", "/v1/keys:rotate", {}),
        ("POST /v1/keys/a:1:revoke", "/v1/keys/{key_id}:revoke", {"key_id": "a:1"}),
        ("POST /v1/keys/a%3A1:revoke", "/v1/keys/{key_id}:revoke", {"key_id": "a%3A1"}),
        ("GET /v1/keys/a%2Fb/receipts", "/v1/keys/{key_id}/receipts", {"key_id": "a%2Fb"}),
        ("GET /v1/keys/newest", "/v1/keys/newest", {}),
        ("GET /v1/keys/newer", "/v1/keys/{key_id}", {"key_id": "newer"}),
        ("GET /v1/files/a/b/c", "/v1/files/{name=**}", {"name": "a/b/c"}),
        ("GET /v1/shelves/shelves/5/books", "/v1/shelves/{name=shelves/*}/books", {"name": "shelves/5"}),
    ],
)
def test_a_path_means_its_template(request_line: str, template: str, variables: dict[str, str]) -> None:
    verb, path = request_line.split(" ")
    matched = TABLE.match(verb, path)

    assert matched is not None
    assert matched.route.template == template
    assert matched.variables == variables


@pytest.mark.parametrize(
    "request_line",
    [
        "GET /v1/keys/",
        "GET /v1//receipts",
        "POST /v1/keys/:revoke",
        "GET /v1/keys:rotate",
        "POST /v1/keys%3Arotate",
        "GET /",
    ],
)
def test_what_matches_no_template_is_unknown(request_line: str) -> None:
    assert TABLE.match(*request_line.split(" ")) is None


def test_a_known_path_has_its_verbs() -> None:
    assert TABLE.allowed("/v1/keys") == ("GET", "HEAD")
    assert TABLE.allowed("/v1/keys:rotate") == ("POST",)
    assert TABLE.allowed("/v1/keys/newer") == ("GET", "HEAD")
    assert TABLE.allowed("/v1/none") == ()


def test_one_verb_and_template_cannot_mean_two_things() -> None:
    with pytest.raises(ValueError, match="bound twice"):
        RouteTable([Route("GET", "/a", 1), Route("GET", "/a", 2)])


def test_a_template_names_its_variables() -> None:
    assert template_variables("/v1/{a}/x/{b=c/*}:d") == ("a", "b")


@pytest.mark.parametrize("segment", ["%", "%g0", "%ff", "%00", "a%0"])
def test_a_segment_that_is_no_text_is_refused_by_name(segment: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decoded("key_id", segment)
    assert refused.value.fields[0].field == "key_id"
