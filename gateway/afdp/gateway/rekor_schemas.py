"""The bodies of Rekor v2's API for the OpenAPI document: they are no messages of ours, so no descriptor has them.

Source: sigstore/rekor-tiles, `rekor/v2/*.proto`; sigstore/protobuf-specs, `sigstore_rekor.proto`; in protobuf's JSON.
"""

from __future__ import annotations

from collections.abc import Mapping

from afdp.formats.entry_request import EntryAlgorithm
from afdp.gateway.schemas import Schema


def _object(description: str, properties: Mapping[str, Schema], *, closed: bool = False) -> Schema:
    shape: Schema = {"type": "object", "description": description, "properties": dict(properties)}
    required = [name for name, schema in properties.items() if "null" not in schema["type"]]
    return {**shape, "required": required, **({"additionalProperties": False} if closed else {})}


def _bytes(description: str, example: str) -> Schema:
    return {"type": "string", "contentEncoding": "base64", "description": description, "examples": [example]}


def _number(description: str) -> Schema:
    pattern = "^(0|[1-9][0-9]*)$"
    return {"type": "string", "pattern": pattern, "description": description, "examples": ["0"]}


# SHA-256 of "hello" and a line's end, signed by a key that is kept nowhere.
_DIGEST = "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="
_SIGNATURE = "MEUCIQDhoyoFBZug0B/vwD5vKoE0ogg4Xe4Ixs3Z28diEKJ42AIgNW4Q3ebAogEyigp+Vu2yD2tE1YKPtMTWkFvsTChRG9Q="
_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEdYKGleTgV414FCtiZJf2+Mp9Y6T6o8RUImpkPAZ1igou"
    "y4EBu6b/G2kPgjP3+hsG0+Oz6uyWzto870MJRu5e7A=="
)
_HASH = "4EePwOItRdHdSGwJJu5AiK9l+e2qVDJTSg3x81+15/I="

_PUBLIC_KEY = _object("The key.", {"rawBytes": _bytes("SubjectPublicKeyInfo, DER.", _KEY)}, closed=True)
_VERIFIER = _object(
    "What the signature is verified with. A notary may be told to take `x509Certificate` in the place of `publicKey`.",
    {
        "publicKey": _PUBLIC_KEY,
        "keyDetails": {
            "type": "string",
            "enum": [str(each) for each in EntryAlgorithm],
            "description": "The kind of key, and with which hash it has signed.",
            "examples": [str(EntryAlgorithm.ECDSA_P256_SHA256)],
        },
    },
)
_REQUEST_SIGNATURE = _object(
    "A signature over the digest.",
    {"content": _bytes("ECDSA in DER, or RSA with PKCS #1 v1.5.", _SIGNATURE), "verifier": _VERIFIER},
    closed=True,
)
_RECORD = _object(
    "A hashedrekord 0.0.2.",
    {"digest": _bytes("By the hash of `keyDetails`.", _DIGEST), "signature": _REQUEST_SIGNATURE},
    closed=True,
)
_CREATE_ENTRY_REQUEST = _object(
    "`dev.sigstore.rekor.v2.CreateEntryRequest`.", {"hashedRekordRequestV002": _RECORD}, closed=True
)

_PROOF = _object(
    "That the entry is in the checkpoint's tree.",
    {
        "logIndex": _number("Zero-based place in the log."),
        "rootHash": _bytes("Of the tree.", _HASH),
        "treeSize": _number("Entries in the tree."),
        "hashes": {"type": "array", "items": _bytes("A hash.", _HASH), "description": "From the leaf upwards."},
        "checkpoint": _object(
            "The tree, signed.",
            {"envelope": {"type": "string", "description": "C2SP tlog-checkpoint.", "examples": ["notary.localhost…"]}},
        ),
    },
)
_TRANSPARENCY_LOG_ENTRY = _object(
    "`dev.sigstore.rekor.v1.TransparencyLogEntry`.",
    {
        "logIndex": _number("Zero-based place in the log."),
        "logId": _object("The log.", {"keyId": _bytes("Its checkpoint key's ID, untruncated.", _HASH)}),
        "kindVersion": _object(
            "What the entry is.",
            {
                "kind": {"type": "string", "description": "Its kind.", "examples": ["hashedrekord"]},
                "version": {"type": "string", "description": "Its version.", "examples": ["0.0.2"]},
            },
        ),
        "integratedTime": _number("0: a log of this kind states no time."),
        "inclusionPromise": {"type": ["object", "null"], "description": "Always null."},
        "inclusionProof": _PROOF,
        "canonicalizedBody": _bytes(
            "The entry, whose RFC 6962 leaf hash is in the log.", "eyJhcGlWZXJzaW9uIjoiMC4wLjIi"
        ),
    },
)

BODIES: Mapping[str, Schema] = {
    "afdp.notary.v1.AddLogEntryRequest.entry": _CREATE_ENTRY_REQUEST,
    "afdp.notary.v1.AddLogEntryResponse.log_entry": _TRANSPARENCY_LOG_ENTRY,
}
"""By the field that holds the body."""

STATUS = _object(
    "`google.rpc.Status`.",
    {
        "code": {"type": "integer", "description": "The gRPC code."},
        "message": {"type": "string", "description": "What was wrong, and where."},
        "details": {
            "type": "array",
            "items": {"type": "object", "description": "By its `@type`."},
            "description": "A `google.rpc.BadRequest` that names each member.",
        },
    },
)
