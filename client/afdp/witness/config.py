"""A witness's folder: `witness.yaml`, its key `witness.key`, its memory `witness.sqlite`.

name: witness.example.org
listen: 127.0.0.1:8090
passphrase_file: /run/secrets/witness     # only where the key is encrypted
tls_cert: /etc/witness/tls.pem            # what listens off loopback speaks TLS,
tls_key: /etc/witness/tls-key.pem         # or says `plain_http: true`, where something before it does
logs:
  - vkey: notary.example.org+1b2c3d4e+AQ…
    origin: notary.example.org            # by default the key's name
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afdp.errors import InvalidArgument
from afdp.formats.document import read_document
from afdp.formats.members import Members
from afdp.formats.note import NoteError, SignatureType, VerifierKey, validate_key_name
from afdp.tls.plain import is_loopback
from afdp.witness.values import WitnessedLog

CONFIG, KEY, STATE = "witness.yaml", "witness.key", "witness.sqlite"
DEFAULT_LISTEN = "127.0.0.1:8090"

_LISTEN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/\s]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """What a witness is told.

    Attributes:
        name: its key's name.
        host: to listen on.
        port: to listen on; 0 is any that is free.
        passphrase_file: None where the key is not encrypted.
        logs: whose checkpoints it cosigns.
        tls: its certificate and the key, PEM; None: it speaks plain text.
    """

    name: str
    host: str
    port: int
    passphrase_file: Path | None
    logs: tuple[WitnessedLog, ...]
    tls: tuple[Path, Path] | None = None


def read_config(data: bytes) -> WitnessConfig:
    """Reads `witness.yaml`.

    Raises:
        InvalidArgument: names the member that is unknown or wrong.
    """
    members = Members(read_document(data))
    name = members.string("name")
    try:
        validate_key_name(name)
    except NoteError as error:
        members.refuse("name", str(error))
    host, port = _listen(members)
    file = members.string("passphrase_file") if members.has("passphrase_file") else None
    members.skip_null("passphrase_file")
    tls = _tls(members, host)
    keys: dict[str, tuple[VerifierKey, ...]] = {}
    for log in members.objects("logs") if members.has("logs") else []:
        key = log_key(log.string("vkey"), log.path("vkey"))
        origin = log.string("origin") if log.has("origin") else key.name
        log.end()
        keys[origin] = (*keys.get(origin, ()), key)  # a log may have changed its key
    members.skip_null("logs")
    members.end()
    logs = tuple(WitnessedLog(origin, each) for origin, each in keys.items())
    return WitnessConfig(name, host, port, Path(file) if file else None, logs, tls)


def write_config(name: str, listen: str, passphrase_file: Path | None, vkeys: Sequence[VerifierKey]) -> str:
    """A `witness.yaml`; values are quoted as JSON is, which YAML reads."""
    import yaml

    document: dict[str, object] = {"name": name, "listen": listen}
    if passphrase_file:
        document["passphrase_file"] = str(passphrase_file.absolute())
    document["logs"] = [{"vkey": str(each)} for each in vkeys]
    return str(yaml.safe_dump(document, sort_keys=False, width=1000))


def log_key(text: str, path: str) -> VerifierKey:
    """A log's key.

    Raises:
        InvalidArgument: it is none; names `path`.
    """
    try:
        key = VerifierKey.parse(text)
    except NoteError as error:
        raise InvalidArgument.field(path, str(error)) from error
    if key.kind is not SignatureType.ED25519:
        raise InvalidArgument.field(path, "is a witness's key; a log's key has the type Ed25519")
    return key


def _tls(members: Members, host: str) -> tuple[Path, Path] | None:
    cert, key = (members.string(name) if members.has(name) else "" for name in ("tls_cert", "tls_key"))
    plain = members.boolean("plain_http") if members.has("plain_http") else False
    for name in ("tls_cert", "tls_key", "plain_http"):
        members.skip_null(name)
    if bool(cert) != bool(key):
        members.refuse("tls_key" if cert else "tls_cert", "is missing: certificate and key go together")
    if not cert and not plain and not is_loopback(host):
        members.refuse(
            "listen",
            f"is {host}, which other machines reach: name tls_cert and tls_key, or, where something that speaks TLS "
            "stands before it, set plain_http to true",
        )
    return (Path(cert), Path(key)) if cert else None


def _listen(members: Members) -> tuple[str, int]:
    text = members.string("listen") if members.has("listen") else DEFAULT_LISTEN
    members.skip_null("listen")
    found = _LISTEN.fullmatch(text)
    if not found or int(found[2]) > 65_535:
        members.refuse("listen", "must be host:port, such as 127.0.0.1:8090")
    return found[1].strip("[]"), int(found[2])
