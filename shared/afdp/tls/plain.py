"""Where plain text may be spoken: on this machine alone."""

from __future__ import annotations

from ipaddress import ip_address

from afdp.errors import FailedPrecondition


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host, or listens there, stays on this machine: a loopback address, or a Unix socket."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def stays_here(address: str) -> bool:
    """As `is_loopback`, of `host:port`, or of each of a list of those with commas."""
    hosts = (each.strip().rpartition(":")[0] for each in address.split(","))
    return address.startswith("unix:") or all(map(is_loopback, hosts))


def require_loopback(address: str) -> None:
    """Looks whether plain text to `host:port`, or to each of a list of those with commas, stays on this machine.

    Raises:
        FailedPrecondition: it does not.
    """
    if not stays_here(address):
        raise FailedPrecondition(f"{address} is another machine, and plain text stays on this one: use TLS")
