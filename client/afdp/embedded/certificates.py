"""The certificates of `afdp dev --tls`: an authority of the stack's own, the services' and three people's."""

from __future__ import annotations

import ssl
from pathlib import Path

from afdp.certs.deployment import PEOPLE, identity, prepare
from afdp.certs.names import TRUST_DOMAIN
from afdp.whole_file import write_whole


def prepare_certificates(folder: Path) -> None:
    """Makes what is missing, and anew what ends soon; and the notary's list of who is who."""
    prepare(folder, TRUST_DOMAIN)
    write_whole(folder / "identity.yaml", identity(TRUST_DOMAIN).encode())


def tls_settings(folder: Path, service: str) -> dict[str, str]:
    """The environment of a service."""
    access = {"AFDP_AUTH": "required", "AFDP_IDENTITY": str(folder / "identity.yaml")} if service == "notary" else {}
    return {
        **access,
        "AFDP_TLS": "required",
        "AFDP_TLS_CERT": str(folder / f"{service}.pem"),
        "AFDP_TLS_KEY": str(folder / f"{service}-key.pem"),
        "AFDP_TLS_CA": str(folder / "ca.pem"),
        "AFDP_TLS_CRL": str(folder / "crl.pem"),
    }


def open_settings(service: str) -> dict[str, str]:
    """The environment of a service without any of this, which has to be said."""
    return {"AFDP_TLS": "off", **({"AFDP_AUTH": "off"} if service == "notary" else {})}


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
