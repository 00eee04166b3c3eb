"""What a certificate may be for: DNS names, IP addresses and URIs such as SPIFFE IDs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from cryptography import x509

from afdp.errors import InvalidArgument

SERVICES = ("gateway", "notary", "signer", "transparency", "metadata")

TRUST_DOMAIN = "afdp.internal"
"""Of the SPIFFE IDs, where no other is given."""

_HOME = ("localhost", *(f"afdp-{name}" for name in SERVICES))


@dataclass(frozen=True, slots=True)
class Names:
    """Subject alternative names."""

    dns: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    uris: tuple[str, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Names:
        """Tells them apart by their look.

        Raises:
            InvalidArgument: one is none of them.
        """
        dns, addresses, uris = [], [], []
        for text in texts:
            if "://" in text:
                uris.append(_uri(text))
            elif (address := _address(text)) is not None:
                addresses.append(address)
            elif _is_dns(text):
                dns.append(text.lower())
            else:
                raise InvalidArgument.field("name", f"{text!r} is no DNS name, IP address or URI")
        return cls(tuple(dns), tuple(addresses), tuple(uris))

    @classmethod
    def of_service(cls, service: str, domain: str, more: Names) -> Names:
        """Those by which the others know a service, those of this machine, and more."""
        return cls(
            (f"afdp-{service}", "localhost", *more.dns),
            (IPv4Address("127.0.0.1"), IPv6Address("::1"), *more.addresses),
            (f"spiffe://{domain}/afdp/{service}", *more.uris),
        )

    @classmethod
    def of_store(cls, name: str) -> Names:
        """Those of a server that services keep something in, such as a database: its name, and this machine's."""
        return cls((name, "localhost"), (IPv4Address("127.0.0.1"), IPv6Address("::1")))

    def extension(self) -> x509.SubjectAlternativeName:
        """As a certificate has them."""
        return x509.SubjectAlternativeName(
            [
                *(x509.UniformResourceIdentifier(uri) for uri in self.uris),
                *(x509.DNSName(name) for name in self.dns),
                *(x509.IPAddress(address) for address in self.addresses),
            ]
        )

    def shown(self) -> tuple[str, ...]:
        """As text, URIs first."""
        return (*self.uris, *self.dns, *(str(address) for address in self.addresses))


def constraints(domain: str, more: Iterable[str]) -> x509.NameConstraints:
    """What an authority may issue for and nothing else (RFC 5280, section 4.2.1.10).

    IP addresses are left open: gRPC's library refuses whatever an authority with a constraint on them has issued.

    Args:
        domain: the trust domain of its SPIFFE IDs.
        more: further DNS domains.

    Raises:
        InvalidArgument: one is none.
    """
    permitted: list[x509.GeneralName] = [x509.UniformResourceIdentifier(domain)]
    for text in (*_HOME, *more):
        if _address(text) is not None or not _is_dns(text):
            raise InvalidArgument.field("permit", f"{text!r} is no DNS domain")
        permitted.append(x509.DNSName(text.lower()))
    return x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None)


def _uri(text: str) -> str:
    parts = urlsplit(text)
    if not text.isascii() or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise InvalidArgument.field("name", f"{text!r} must be a URI such as spiffe://{TRUST_DOMAIN}/workload")
    return text


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_dns(text: str) -> bool:
    labels = text.removeprefix("*.").split(".")
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and label.replace("-", "").isalnum() and label.isascii() and label[0] != "-"
        for label in labels
    )
