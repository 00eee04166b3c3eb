"""The certificates of a whole deployment: its services', and of three people who may call."""

from __future__ import annotations

from pathlib import Path

from afdp.certs.authority import Authority
from afdp.certs.ending import ending_soon
from afdp.certs.names import SERVICES, Names
from afdp.errors import InvalidArgument
from afdp.whole_file import write_private, write_whole

PEOPLE = {"admin": "admin", "engineer": "ai_engineer", "analyst": "security_analyst"}
"""Clients, each with a SPIFFE ID of its own, and the role that `identity` gives it."""

_RENEW_DAYS = 10


def prepare(
    folder: Path,
    domain: str,
    permit: tuple[str, ...] = (),
    names: Names | None = None,
    stores: tuple[str, ...] = (),
) -> Authority:
    """Makes what is missing, and anew what ends soon.

    Args:
        folder: the authority's.
        domain: the trust domain of the SPIFFE IDs.
        permit: what a new authority may issue for, besides this machine, services and stores.
        names: further ones of every service.
        stores: servers that the services keep something in, by their host names.

    Raises:
        InvalidArgument: a name is none, is one of a service's, or the authority that is there may not issue for it.
    """
    if taken := {*SERVICES, *PEOPLE, "clients", "authority"} & set(stores):
        raise InvalidArgument.field("store", f"{', '.join(sorted(taken))} is not a store's name")
    there = (folder / "ca-key.pem").exists()
    authority = Authority(folder) if there else Authority.make(folder, domain, (*permit, *stores))
    authority.renew_list()
    for service in SERVICES:
        if not authority.issued(service).key.exists():
            authority.issue(service, Names.of_service(service, domain, names or Names()))
    for store in stores:
        if not authority.issued(store).key.exists():
            authority.issue(store, Names.of_store(store))
    for person in PEOPLE:
        if not authority.issued(person).key.exists():
            authority.issue(person, Names(uris=(spiffe_id(person, domain),)), server=False)
    for name in ending_soon(authority, _RENEW_DAYS):
        authority.renew(name)
    return authority


def spiffe_id(person: str, domain: str) -> str:
    """By which one of `PEOPLE` is known."""
    return f"spiffe://{domain}/user/{person}"


def identity(domain: str) -> str:
    """What `AFDP_IDENTITY` says of these people."""
    rules = "".join(
        f"  - uri: {spiffe_id(person, domain)}\n    tenant: default\n    roles: {role}\n"
        for person, role in PEOPLE.items()
    )
    return f"certificates:\n{rules}"


def hand_out(authority: Authority, folder: Path, stores: tuple[str, ...] = ()) -> None:
    """Gives each service and store what it needs, in a folder of its own below `folder`; people in `clients`.

    Such a folder has `cert.pem`, `key.pem`, `ca.pem` and `crl.pem`. A store's key may be read by the group: servers of
    others run as users of their own. `authority` has the last two: for who has to know the others and is none of them.
    """
    public = {"ca.pem": authority.file, "crl.pem": authority.list_file}
    _copy(folder / "authority", {}, public)
    for service in SERVICES:
        issued, own = authority.issued(service), folder / service
        _copy(own, {"key.pem": issued.key}, {"cert.pem": issued.cert, **public})
    for store in stores:
        issued, own = authority.issued(store), folder / store
        _copy(own, {"key.pem": issued.key}, {"cert.pem": issued.cert, **public})
        (own / "key.pem").chmod(0o640)
    people = {person: authority.issued(person) for person in PEOPLE}
    keys = {f"{person}-key.pem": issued.key for person, issued in people.items()}
    _copy(folder / "clients", keys, {f"{person}.pem": issued.cert for person, issued in people.items()} | public)


def _copy(folder: Path, private: dict[str, Path], public: dict[str, Path]) -> None:
    """Keys first: a certificate without its key is looked at again, until it has come."""
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    for name, source in private.items():
        write_private(folder / name, source.read_bytes())
    for name, source in public.items():
        write_whole(folder / name, source.read_bytes())
