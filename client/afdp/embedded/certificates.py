"""The certificates of `afdp dev --tls`: an authority of the stack's own, the services' and three people's."""

from __future__ import annotations

import ssl
from pathlib import Path

from afdp.certs.authority import Authority
from afdp.certs.ending import ending_soon
from afdp.certs.names import SERVICES, TRUST_DOMAIN, Names

PEOPLE = ("admin", "engineer", "analyst")
"""Clients, each with a SPIFFE ID of its own."""

_RENEW_DAYS = 10


def prepare_certificates(folder: Path) -> None:
    """Makes what is missing, and anew what ends soon. A lost authority is replaced with all that it issued."""
    if not (folder / "ca-key.pem").exists():
        Authority.make(folder, TRUST_DOMAIN)
    authority = Authority(folder)
    authority.renew_list()
    for service in SERVICES:
        if not authority.issued(service).key.exists():
            authority.issue(service, Names.of_service(service, TRUST_DOMAIN, Names()))
    for person in PEOPLE:
        if not authority.issued(person).key.exists():
            authority.issue(person, Names(uris=(spiffe_id(person),)), server=False)
    for name in ending_soon(authority, _RENEW_DAYS):
        authority.renew(name)


def spiffe_id(person: str) -> str:
    """By which one of `PEOPLE` is known."""
    return f"spiffe://{TRUST_DOMAIN}/user/{person}"


def tls_settings(folder: Path, service: str) -> dict[str, str]:
    """The environment of a service."""
    return {
        "AFDP_TLS": "required",
        "AFDP_TLS_CERT": str(folder / f"{service}.pem"),
        "AFDP_TLS_KEY": str(folder / f"{service}-key.pem"),
        "AFDP_TLS_CA": str(folder / "ca.pem"),
        "AFDP_TLS_CRL": str(folder / "crl.pem"),
    }


def client_settings(folder: Path, person: str) -> dict[str, str]:
    """The environment of a client that calls as one of `PEOPLE`."""
    return {
        "AFDP_CA": str(folder / "ca.pem"),
        "AFDP_CLIENT_CERT": str(folder / f"{person}.pem"),
        "AFDP_CLIENT_KEY": str(folder / f"{person}-key.pem"),
    }


def authority_context(folder: Path) -> ssl.SSLContext:
    """A client's, that believes the authority."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def how_to_call(folder: Path, url: str, grpc_address: str) -> str:
    """What to type, for people."""
    files = f"--cacert {folder}/ca.pem --cert {folder}/engineer.pem --key {folder}/engineer-key.pem"
    return (
        f"\nClients are {', '.join(PEOPLE)}; their certificates are in {folder}. Call as one of them:\n\n"
        f"  curl {files} {url}/ready\n\n"
        f"  export AFDP_URL={url} AFDP_CA={folder}/ca.pem\n"
        f"  export AFDP_CLIENT_CERT={folder}/engineer.pem AFDP_CLIENT_KEY={folder}/engineer-key.pem\n"
        f"  afdp sign FILE\n\n"
        f"gRPC is at {grpc_address}, with the same files.\n"
    )
