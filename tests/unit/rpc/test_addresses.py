"""Addresses of one service, or of its replicas."""

import pytest
from pydantic import ValidationError

from afdp.errors import InvalidArgument
from afdp.notary.config import NotarySettings
from afdp.rpc.addresses import target


@pytest.mark.parametrize(
    ("address", "spelled"),
    [
        ("afdp-transparency:50053", "afdp-transparency:50053"),
        ("10.0.0.5:50053,10.0.0.6:50053", "ipv4:10.0.0.5:50053,10.0.0.6:50053"),
        ("10.0.0.5:50053, 10.0.0.6:50054", "ipv4:10.0.0.5:50053,10.0.0.6:50054"),
        ("[::1]:1,[fd00::2]:2", "ipv6:[::1]:1,[fd00::2]:2"),
    ],
)
def test_one_name_stays_and_a_list_of_ips_is_spelled_as_grpc_does(address: str, spelled: str) -> None:
    assert target(address) == spelled


@pytest.mark.parametrize(
    "address", ["one:50053,two:50053", "127.0.0.1:1,[::1]:1", "127.0.0.1,127.0.0.2", "10.0.0.5:1,"]
)
def test_a_list_with_anything_else_is_refused_where_it_is_set(address: str) -> None:
    with pytest.raises(InvalidArgument, match="no list of addresses"):
        target(address)
    with pytest.raises(ValidationError, match=r"(?s)transparency_address.*no list of addresses"):
        NotarySettings.model_validate({"transparency_address": address})
