"""Ports for servers that tests end and start again."""

from __future__ import annotations

import secrets
import socket

from afdp.embedded.process import LOOPBACK

_LASTING = range(20_000, 32_768)


def lasting_port() -> int:
    """A free port that stays free while its server is away.

    It is none of those that the system gives to whoever asks for any, or opens a connection: such a one might be taken
    meanwhile, even by those who look whether the server is there again.
    """
    while True:
        port = secrets.choice(_LASTING)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
