"""The key that a log's checkpoints are believed by, in any of the forms that logs publish theirs in.

A note verifier key (`name+id+key`, one a line), a public key in PEM (Ed25519, ECDSA P-256), or a Sigstore trusted root.
Where there are several, or where the key has no name, the origin says which log it is.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import orjson

from afdp.errors import InvalidArgument
from afdp.formats.encoding import from_b64
from afdp.formats.note import Note, NoteError, SignatureType, VerifierKey
from afdp.formats.spki import from_pem, load_ed25519
from afdp.monitor.source import is_url


def host_of(source: str) -> str | None:
    """The host of a log's address: what Rekor calls its log by. None for a folder."""
    return urlsplit(source).hostname if is_url(source) else None


def read_log_key(
    data: bytes, origin: str | None, *, likely: str | None = None, served: Callable[[], str] | None = None
) -> VerifierKey:
    """The key of a log.

    Args:
        data: of the file.
        origin: the log's, where it was given.
        likely: the origin where none was given and the key has no name.
        served: gives the checkpoint that the log serves: which one is meant where the file has several, all of them
            trusted.

    Raises:
        InvalidArgument: there is none of this log, or more than one.
    """
    text = data.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        return _only(_of_trusted_root(text), origin, served)
    if text.startswith("-----BEGIN"):
        if not (name := origin or likely):
            raise InvalidArgument("a key in PEM has no name: give the log's with --origin")
        return _named(name, _der(text))
    return _only(read_vkeys(text), origin, served)


def read_vkeys(text: str) -> list[VerifierKey]:
    """Note verifier keys, one a line.

    Raises:
        InvalidArgument: a line is none.
    """
    try:
        return [VerifierKey.parse(line.strip()) for line in text.splitlines() if line.strip()]
    except NoteError as error:
        raise InvalidArgument(str(error)) from error


def _only(keys: list[VerifierKey], origin: str | None, served: Callable[[], str] | None) -> VerifierKey:
    found = list(dict.fromkeys(key for key in keys if origin in (None, key.name)))
    if len(found) > 1 and served:
        note = served()
        found = [key for key in found if key.name == note.partition("\n")[0]] or found
        found = _signers(note, found) if len(found) > 1 else found
    if len(found) == 1:
        return found[0]
    names = ", ".join(dict.fromkeys(key.name for key in keys)) or "none"
    if not found:
        raise InvalidArgument(f"it has no key of {origin or 'a log'}; those it has: {names}")
    raise InvalidArgument(f"it has more than one key; say with --origin which log is meant: {names}")


def _signers(note: str, keys: list[VerifierKey]) -> list[VerifierKey]:
    """Those that the note says it is signed by: a log may have had several keys, one after the other."""
    try:
        signed = Note.parse(note)
    except NoteError:
        return keys
    return [key for key in keys if signed.names_signer(key)] or keys


def _named(name: str, spki: bytes) -> VerifierKey:
    try:
        try:
            return VerifierKey(name, load_ed25519(spki))
        except ValueError:
            return VerifierKey(name, spki, SignatureType.ECDSA)
    except NoteError as error:
        raise InvalidArgument(f"it is no key that a log signs with (Ed25519, ECDSA P-256): {error}") from error


def _der(text: str) -> bytes:
    try:
        return from_pem(text)
    except ValueError as error:
        raise InvalidArgument(f"it {error}") from error


def _of_trusted_root(text: str) -> list[VerifierKey]:
    """The logs of a Sigstore trusted root that sign checkpoints by such keys; a name is the host of `baseUrl`."""
    try:
        tlogs = orjson.loads(text)["tlogs"]
        found = [(urlsplit(each["baseUrl"]).hostname or "", from_b64(each["publicKey"]["rawBytes"])) for each in tlogs]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument("it is JSON and no Sigstore trusted root") from error
    keys = []
    for name, spki in found:
        try:
            keys.append(_named(name, spki))
        except InvalidArgument:
            continue  # of another kind: not a log that is read here
    return keys
