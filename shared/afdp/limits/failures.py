"""Addresses whose credentials fail too often are no longer listened to, unless they show what was good before."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import ip_address

from afdp.limits.rates import Bucket, Buckets, Rate

_ADDRESSES = 65_536
_CREDENTIALS = 16_384


class FailureLimit:
    """How often credentials may fail, by address.

    Many callers may share an address, so one that fails shuts out no credential that was good a while ago. An IPv6
    address counts with its /64, which one host has as a whole.
    """

    def __init__(self, rate: Rate) -> None:
        self._failures = Buckets(rate, _ADDRESSES)
        self._good: OrderedDict[int, None] = OrderedDict()

    def wait(self, address: str, credential: str, now: float) -> float:
        """Seconds until a credential from an address may be tried; 0: at once."""
        bucket = self._failures.known(network_of(address))
        if bucket is None or bucket.left(now) > 0 or hash(credential) in self._good:
            return 0.0
        return bucket.wait(now)

    def failed(self, address: str, credential: str, now: float) -> None:
        """Counts a credential that was not believed, though it may have been good before."""
        self._good.pop(hash(credential), None)
        bucket: Bucket = self._failures.of(network_of(address))
        if bucket.left(now) > 0:
            bucket.take(now)

    def succeeded(self, credential: str) -> None:
        """Remembers a credential that was; by its hash alone, which is another in each process."""
        key = hash(credential)
        if key not in self._good:
            self._good[key] = None
            if len(self._good) > _CREDENTIALS:
                self._good.popitem(last=False)


def speaks_for_one(address: str) -> bool:
    """Whether it is one caller's address. Over loopback come a proxy on this machine and all its callers."""
    try:
        return bool(address) and not ip_address(address).is_loopback
    except ValueError:
        return False


def network_of(address: str) -> str:
    """What is counted together: an IPv4 address, or the first 64 bits of an IPv6 one."""
    if ":" not in address:
        return address
    try:
        return ip_address(address).exploded[:19]
    except ValueError:
        return address
