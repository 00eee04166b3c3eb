"""What tests against real servers look at them with."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def listening_addresses() -> Callable[[int], set[str]]:
    """`listening_addresses(pid)`: the addresses on which a process listens for TCP, from the kernel's own tables."""

    def look(pid: int) -> set[str]:
        links = [os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()]
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        return _listening("tcp", socket.AF_INET, inodes) | _listening("tcp6", socket.AF_INET6, inodes)

    return look


def _listening(table: str, family: socket.AddressFamily, inodes: set[str]) -> set[str]:
    """Reads proc(5) `/proc/net/tcp`: an address is hexadecimal in words of host order, state 0A is LISTEN."""
    found = set()
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        local, state, inode = (line.split()[column] for column in (1, 3, 9))
        if state == "0A" and inode in inodes:
            address = bytes.fromhex(local.split(":")[0])
            words = [address[at : at + 4][::-1] for at in range(0, len(address), 4)]
            found.add(socket.inet_ntop(family, b"".join(words)))
    return found
