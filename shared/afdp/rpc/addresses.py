"""Where a service is: one name, or the addresses of its replicas."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from afdp.errors import InvalidArgument

_LISTS = {
    "ipv4": re.compile(r"\d{1,3}(\.\d{1,3}){3}:\d{1,5}"),
    "ipv6": re.compile(r"\[[0-9a-fA-F:.]+\]:\d{1,5}"),
}


def target(address: str) -> str:
    """`host:port`, or several `ip:port` with commas, as gRPC spells them (its doc/naming.md).

    Raises:
        InvalidArgument: one of several is no IP with a port, or they are not of one kind.
    """
    if "," not in address:
        return address
    each = [part.strip() for part in address.split(",")]
    for scheme, pattern in _LISTS.items():
        if all(pattern.fullmatch(part) for part in each):
            return f"{scheme}:{','.join(each)}"
    raise InvalidArgument(
        f"{address} is no list of addresses: each must be an IP with its port, all IPv4 or all IPv6; "
        "replicas with names need one name that stands for all of them"
    )


def _checked(address: str) -> str:
    try:
        target(address)
    except InvalidArgument as error:
        raise ValueError(error.message) from None
    return address


Address = Annotated[str, AfterValidator(_checked)]
"""A setting: where a service is, as `target` takes it."""
