"""What the notary says that the offline roles have to know: its keys, its logs, its authorities, who signs online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from afdp.client.values import Key
from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.canonical import strict_json
from afdp.formats.members import Members
from afdp.formats.spki import from_pem, load_ed25519
from afdp.formats.trust import TrustRoot, read_trust_files


@dataclass(frozen=True, slots=True)
class Notary:
    """What it said.

    Attributes:
        online_key: the raw public key of the signer's trust key, 32 bytes.
        hints: of every key version, whatever it is for, by its ID.
        files: of the trust root that it hands out.
    """

    online_key: bytes
    hints: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def root(self) -> TrustRoot:
        """The trust root that it hands out.

        Raises:
            InvalidArgument: it cannot be used; the file is named.
        """
        return read_trust_files({name: text.encode() for name, text in self.files.items()})


def what_it_says(keys: tuple[Key, ...], files: Mapping[str, str]) -> Notary:
    """From the answers to `ListKeys` and `GetTrustRoot`.

    Raises:
        FailedPrecondition: the signer has no trust key.
    """
    signing = [key for key in keys if key.purpose == "trust" and key.current]
    if len(signing) != 1:
        raise FailedPrecondition("the notary's signer has no key for trust metadata")
    return Notary(load_ed25519(from_pem(signing[0].public_key_pem)), {key.key_id: key.hint for key in keys}, files)


def notary_json(notary: Notary) -> bytes:
    """As it is kept in the ceremony's folder."""
    said = {"online_key": notary.online_key.hex(), "hints": dict(notary.hints), "files": dict(notary.files)}
    return orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_notary(data: bytes) -> Notary:
    """What `notary_json` wrote.

    Raises:
        InvalidArgument: it is something else.
    """
    document = Members(strict_json(data))
    online_key = bytes.fromhex(document.sha256_hex("online_key"))  # as long as a hash, and as hex
    hints, files = document.take("hints"), document.take("files")
    if not isinstance(hints, dict) or not isinstance(files, dict):
        raise InvalidArgument.field("files", "must be an object, and so must hints")
    document.end()
    return Notary(online_key, hints, files)
