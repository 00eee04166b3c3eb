"""What somebody may change in a receipt: each as a function of the receipt's JSON object."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Tampering:
    """One change, and the check of ours that must fail."""

    name: str
    change: Callable[[Json], None]
    check: str


def entry(receipt: Json) -> Json:
    """The bundle's log entry."""
    found: Json = receipt["bundle"]["verificationMaterial"]["tlogEntries"][0]
    return found


def envelope(receipt: Json) -> Json:
    """The bundle's envelope."""
    found: Json = receipt["bundle"]["dsseEnvelope"]
    return found


def flipped(text: str, at: int = -1) -> str:
    """Base64 of the same bytes with one bit of one byte changed."""
    data = bytearray(b64decode(text))
    data[at] ^= 0x01
    return b64encode(data).decode()


def _payload(receipt: Json) -> None:
    statement = json.loads(b64decode(envelope(receipt)["payload"]))
    statement["predicate"]["notary"]["submitter"]["subject"] = "mallory"
    envelope(receipt)["payload"] = b64encode(json.dumps(statement).encode()).decode()


def _signature(receipt: Json) -> None:
    signature = envelope(receipt)["signatures"][0]
    signature["sig"] = receipt["signature_b64"] = flipped(signature["sig"])


def _body(receipt: Json) -> None:
    entry(receipt)["canonicalizedBody"] = flipped(entry(receipt)["canonicalizedBody"], 0)


def _body_signature(receipt: Json) -> None:
    body = json.loads(b64decode(entry(receipt)["canonicalizedBody"]))
    signature = body["spec"]["hashedRekordV002"]["signature"]
    signature["content"] = flipped(signature["content"])
    canonical = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    entry(receipt)["canonicalizedBody"] = b64encode(canonical).decode()


def _hashes(receipt: Json) -> None:
    hashes = entry(receipt)["inclusionProof"]["hashes"]
    hashes[0] = flipped(hashes[0])


def _log_index(receipt: Json) -> None:
    entry(receipt)["logIndex"] = str(int(entry(receipt)["logIndex"]) + 1)


def _checkpoint(receipt: Json) -> None:
    checkpoint = entry(receipt)["inclusionProof"]["checkpoint"]
    text, _, rest = checkpoint["envelope"].rpartition("\n\n")
    origin, size, root = text.split("\n")
    checkpoint["envelope"] = f"{origin}\n{size}\n{flipped(root)}\n\n{rest}"


def _checkpoint_signature(receipt: Json) -> None:
    checkpoint = entry(receipt)["inclusionProof"]["checkpoint"]
    head, _, signature = checkpoint["envelope"].rstrip("\n").rpartition(" ")
    checkpoint["envelope"] = f"{head} {flipped(signature)}\n"


def _missing_entry(receipt: Json) -> None:
    receipt["bundle"]["verificationMaterial"]["tlogEntries"].clear()


REFUSED_BY_ALL = [
    Tampering("payload", _payload, "signature"),
    Tampering("signature", _signature, "signature"),
    Tampering("canonicalizedBody", _body, "log"),
    Tampering("hashes", _hashes, "log"),
    Tampering("entry logIndex", _log_index, "log"),
    Tampering("checkpoint", _checkpoint, "checkpoint"),
    Tampering("checkpoint signature", _checkpoint_signature, "checkpoint"),
    Tampering("missing entry", _missing_entry, "log"),
]


def _root_hash(receipt: Json) -> None:
    proof = entry(receipt)["inclusionProof"]
    proof["rootHash"] = flipped(proof["rootHash"])


def _tree_size(receipt: Json) -> None:
    proof = entry(receipt)["inclusionProof"]
    proof["treeSize"] = str(int(proof["treeSize"]) + 1)


def _proof_index(receipt: Json) -> None:
    proof = entry(receipt)["inclusionProof"]
    proof["logIndex"] = str(int(proof["logIndex"]) - 1)


def _integrated_time(receipt: Json) -> None:
    entry(receipt)["integratedTime"] = "1795752568"


def _hint(receipt: Json) -> None:
    key = receipt["bundle"]["verificationMaterial"]["publicKey"]
    key["hint"] = flipped(key["hint"])


# cosign 3 rebuilds the log entry from the envelope, and of the bundle's own copy only asks that it can be read.
REFUSED_BY_OURS = [
    Tampering("canonicalizedBody, still well-formed", _body_signature, "log"),
    Tampering("rootHash", _root_hash, "log"),
    Tampering("treeSize", _tree_size, "checkpoint"),
    Tampering("inclusionProof.logIndex", _proof_index, "log"),
    Tampering("integratedTime", _integrated_time, "log"),
    Tampering("hint", _hint, "signature"),
]


def _setting(field: str, value: object) -> Callable[[Json], None]:
    return lambda receipt: receipt.__setitem__(field, value)


def _stamps(receipt: Json) -> list[Json]:
    found: list[Json] = receipt["bundle"]["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    return found


def _stamp_signature(receipt: Json) -> None:
    stamp = _stamps(receipt)[0]
    stamp["signedTimestamp"] = flipped(stamp["signedTimestamp"])  # it stands at the end


def _stamp_time(receipt: Json) -> None:
    stamp = _stamps(receipt)[0]
    data = b64decode(stamp["signedTimestamp"])
    [time] = re.finditer(rb"\x18.(20[0-9]{12})", data)  # a GeneralizedTime
    stamp["signedTimestamp"] = flipped(stamp["signedTimestamp"], time.start(1) + 3)


def _no_stamp(receipt: Json) -> None:
    _stamps(receipt)[0]["signedTimestamp"] = receipt["bundle"]["dsseEnvelope"]["signatures"][0]["sig"]


OTHER_TIME = Tampering("time of the timestamp", _stamp_time, "time")
# What every verifier of timestamps refuses.
STAMPS = [
    Tampering("signature of the timestamp", _stamp_signature, "time"),
    OTHER_TIME,
    Tampering("timestamp that is none", _no_stamp, "time"),
]


# The members beside the bundle, which no Sigstore verifier sees.
CLASSIC = [
    Tampering("evidence_package_hash", _setting("evidence_package_hash", "ab" * 32), "evidence"),
    Tampering("rekor_log_id", _setting("rekor_log_id", "ab" * 32), "log"),
    Tampering("signature_b64", _setting("signature_b64", "c2ln"), "signature"),
    Tampering("public_key_b64", _setting("public_key_b64", "a2V5"), "signature"),
    Tampering("integrated_time", _setting("integrated_time", 1), "time"),
    Tampering("log_index", _setting("log_index", 999), "log"),
    Tampering("receipt_id", _setting("receipt_id", "0199d3a0-0000-7000-8000-ffffffffffff"), "evidence"),
    Tampering("state", _setting("state", "signed"), "log"),
    Tampering("key_id", _setting("key_id", "afdp-notary-key:4"), "signature"),
]

EVERY_TAMPERING = [*REFUSED_BY_ALL, *REFUSED_BY_OURS, *STAMPS, *CLASSIC]
