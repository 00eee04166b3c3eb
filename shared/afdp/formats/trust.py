"""The trust root: the keys that a verifier believes, as files (`afdp trust export`).

    trusted_root.json   Sigstore's TrustedRoot, for any Sigstore verifier: the logs' keys, the time-stamping authorities
    tsa.pem             the authorities' certificates; missing where there are none
    log.vkey            the same keys as note verifier keys, one a line (C2SP signed-note)
    keys.json           the evidence keys: validity, tenants, revocation
    keys/<key_id>.pem   each evidence key, SubjectPublicKeyInfo

What two files say twice is compared when they are read: files that disagree are no trust root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TypeVar

import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from afdp.errors import FieldViolation, InvalidArgument
from afdp.formats.authorities import TimestampAuthority, authorities_pem, require_same_certificates
from afdp.formats.canonical import strict_json
from afdp.formats.encoding import b64
from afdp.formats.hashedrekord import SignatureAlgorithm, key_hint
from afdp.formats.members import Members
from afdp.formats.note import NoteError, SignatureType, VerifierKey, key_digest, validate_origin
from afdp.formats.spki import ed25519_spki, from_pem, load_ec, load_ed25519, to_pem
from afdp.formats.timestamps import format_timestamp

TRUSTED_ROOT_MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
TRUSTED_ROOT, LOG_VKEY, KEYS, TSA_PEM = "trusted_root.json", "log.vkey", "keys.json", "tsa.pem"
REQUIRED_FILES = (TRUSTED_ROOT, LOG_VKEY, KEYS)

ED25519, ECDSA_P256 = "PKIX_ED25519", "PKIX_ECDSA_P256_SHA_256"

EvidencePublicKey = ec.EllipticCurvePublicKey
_Read = TypeVar("_Read")
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}:[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Revocation:
    """Why a key version is not trusted any more; `compromised_since` is None where it was merely retired."""

    at: datetime
    compromised_since: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class EvidenceKey:
    """One version of a key that signs statements.

    Attributes:
        key_id: `name:version`.
        spki: SubjectPublicKeyInfo, DER.
        tenants: those it signs for; `*` is all.
    """

    key_id: str
    algorithm: SignatureAlgorithm
    spki: bytes
    valid_from: datetime
    valid_until: datetime | None = None
    tenants: tuple[str, ...] = ("*",)
    revoked: Revocation | None = None

    @property
    def hint(self) -> str:
        """What names it in a bundle."""
        return key_hint(self.spki)

    def signs_for(self, tenant: str) -> bool:
        """Whether it may sign for this tenant."""
        return "*" in self.tenants or tenant in self.tenants


@dataclass(frozen=True, slots=True)
class Log:
    """A transparency log: its origin and its key.

    Attributes:
        public_key: of Ed25519 the raw key, 32 bytes; of ECDSA P-256, as a Rekor may have, SubjectPublicKeyInfo, DER.
    """

    origin: str
    public_key: bytes
    valid_from: datetime
    kind: SignatureType = SignatureType.ED25519

    @classmethod
    def of(cls, origin: str, spki: bytes, valid_from: datetime) -> Log:
        """A log by its key's SubjectPublicKeyInfo, DER.

        Raises:
            InvalidArgument: the origin is not a bare host name, or the key is neither Ed25519 nor ECDSA P-256.
        """
        try:
            validate_origin(origin)
        except NoteError as error:
            raise InvalidArgument.field("origin", str(error)) from error
        try:
            return cls(origin, load_ed25519(spki), valid_from)
        except ValueError:
            pass
        try:
            load_ec(spki, SignatureAlgorithm.ECDSA_P256_SHA256)
        except ValueError:
            raise InvalidArgument.field("spki", "must be an Ed25519 or ECDSA P-256 key: SubjectPublicKeyInfo") from None
        return cls(origin, spki, valid_from, SignatureType.ECDSA)

    @property
    def vkey(self) -> VerifierKey:
        """Its note verifier key."""
        return VerifierKey(self.origin, self.public_key, self.kind)

    @property
    def log_id(self) -> bytes:
        """The untruncated checkpoint key ID, 32 bytes: `logId.keyId` in bundles and in trusted roots."""
        return key_digest(self.origin, self.public_key, self.kind)

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.public_key if self.kind is SignatureType.ECDSA else ed25519_spki(self.public_key)

    @property
    def key_details(self) -> str:
        """The key's type, as Sigstore names it."""
        return ECDSA_P256 if self.kind is SignatureType.ECDSA else ED25519


@dataclass(frozen=True)
class TrustRoot:
    """Every key that a verifier believes.

    Attributes:
        keys: the evidence keys, each version that ever signed.
        logs: the transparency logs. A log of others may have several keys, one after the other, under one origin:
            what it signed with the ones before verifies for ever.
        timestamp_authorities: each certificate of each, with when its stamps count.
    """

    keys: tuple[EvidenceKey, ...]
    logs: tuple[Log, ...]
    timestamp_authorities: tuple[TimestampAuthority, ...] = ()

    def __post_init__(self) -> None:
        for what, names in (
            ("key_id", [key.key_id for key in self.keys]),
            ("public key", [key.hint for key in self.keys]),
            ("log ID", [log.log_id.hex() for log in self.logs]),
        ):
            if twice := {name for name in names if names.count(name) > 1}:
                raise InvalidArgument(f"the trust root has the same {what} twice: {', '.join(sorted(twice))}")

    @cached_property
    def key_of_hint(self) -> Mapping[str, tuple[EvidenceKey, EvidencePublicKey]]:
        """The evidence keys, loaded, by hint."""
        return {key.hint: (key, _evidence_key(key)) for key in self.keys}

    @cached_property
    def log_of_id(self) -> Mapping[bytes, Log]:
        """The logs by `logId.keyId`."""
        return {log.log_id: log for log in self.logs}

    def is_independent(self, authority: TimestampAuthority) -> bool:
        """Whether an authority is somebody else's: its host is not the origin of a log of this trust root."""
        return authority.host not in {log.origin.lower() for log in self.logs}

    @cached_property
    def independent_authorities(self) -> tuple[TimestampAuthority, ...]:
        """The time-stamping authorities that are somebody else's."""
        return tuple(each for each in self.timestamp_authorities if self.is_independent(each))

    @cached_property
    def vkey_of_log(self) -> Mapping[bytes, VerifierKey]:
        """The logs' note verifier keys by `logId.keyId`."""
        return {log.log_id: log.vkey for log in self.logs}


# --- writing ----------------------------------------------------------------------------------------------------------


def trust_files(root: TrustRoot) -> dict[str, str]:
    """The files of a trust root: text by relative path."""
    files = {
        TRUSTED_ROOT: _pretty(_trusted_root(root.logs, root.timestamp_authorities)),
        LOG_VKEY: "".join(f"{log.vkey}\n" for log in root.logs),
        KEYS: _pretty({"keys": [_key_object(key) for key in root.keys]}),
    }
    for key in root.keys:
        if not _KEY_ID.fullmatch(key.key_id):
            raise InvalidArgument.field("key_id", _KEY_ID_RULE)
        _evidence_key(key)
        files[pem_name(key.key_id)] = to_pem(key.spki)
    if root.timestamp_authorities:
        files[TSA_PEM] = authorities_pem(root.timestamp_authorities)
    return files


def pem_name(key_id: str) -> str:
    """Where the key stands in the folder."""
    return f"keys/{key_id}.pem"


def _trusted_root(logs: Iterable[Log], authorities: Iterable[TimestampAuthority]) -> dict[str, object]:
    # sigstore-go takes the checkpoint's origin from the host of `baseUrl`; it must not be where the log is served.
    return {
        "mediaType": TRUSTED_ROOT_MEDIA_TYPE,
        "tlogs": [
            {
                "baseUrl": f"https://{log.origin}",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": b64(log.spki),
                    "keyDetails": log.key_details,
                    "validFor": {"start": format_timestamp(log.valid_from)},
                },
                "logId": {"keyId": b64(log.log_id)},
            }
            for log in logs
        ],
        "certificateAuthorities": [],
        "ctlogs": [],
        "timestampAuthorities": [authority.to_object() for authority in authorities],
    }


def _key_object(key: EvidenceKey) -> dict[str, object]:
    revoked = key.revoked
    return {
        "key_id": key.key_id,
        "hint": key.hint,
        "algorithm": key.algorithm,
        "valid_from": format_timestamp(key.valid_from),
        "valid_until": _optional_time(key.valid_until),
        "tenants": list(key.tenants),
        "revoked": revoked
        and {
            "at": format_timestamp(revoked.at),
            "compromised_since": _optional_time(revoked.compromised_since),
            "reason": revoked.reason,
        },
    }


def _optional_time(time: datetime | None) -> str | None:
    return None if time is None else format_timestamp(time)


def _pretty(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_trust_files(files: Mapping[str, bytes]) -> TrustRoot:
    """A trust root from its files by relative path; files of other names are ignored.

    Raises:
        InvalidArgument: a file is missing or wrong, or two files disagree; the file is named.
    """
    for name in REQUIRED_FILES:
        if name not in files:
            raise InvalidArgument.field(name, "is missing from the trust root")
    logs, authorities = _within(TRUSTED_ROOT, _read_trusted_root, files[TRUSTED_ROOT])
    _compare_vkeys(logs, files[LOG_VKEY])
    _compare_certificates(authorities, files.get(TSA_PEM, b""))
    entries = _within(KEYS, _read_keys, files[KEYS])
    return TrustRoot(tuple(_with_pem(entry, files) for entry in entries), logs, authorities)


@dataclass(frozen=True, slots=True)
class _KeyEntry:
    """A key as `keys.json` has it: all but the key itself."""

    key_id: str
    hint: str
    algorithm: SignatureAlgorithm
    valid_from: datetime
    valid_until: datetime | None
    tenants: tuple[str, ...]
    revoked: Revocation | None


def _read_keys(data: bytes) -> tuple[_KeyEntry, ...]:
    document = Members(strict_json(data))
    entries = tuple(map(_read_key, document.objects("keys")))
    document.end()
    if not entries:
        raise InvalidArgument.field("keys", "must not be empty")
    return entries


def _read_key(members: Members) -> _KeyEntry:
    key_id = members.string("key_id")
    if not _KEY_ID.fullmatch(key_id):
        members.refuse("key_id", _KEY_ID_RULE)
    entry = _KeyEntry(
        key_id=key_id,
        hint=members.base64_text("hint"),
        algorithm=SignatureAlgorithm(members.one_of("algorithm", tuple(SignatureAlgorithm))),
        valid_from=members.time("valid_from"),
        valid_until=members.optional_time("valid_until"),
        tenants=members.strings("tenants"),
        revoked=_read_revocation(members),
    )
    if not entry.tenants:
        members.refuse("tenants", "must not be empty; `*` is all tenants")
    if entry.valid_until is not None and entry.valid_until <= entry.valid_from:
        members.refuse("valid_until", "must be after valid_from")
    members.end()
    return entry


def _read_revocation(members: Members) -> Revocation | None:
    if not members.has("revoked"):
        members.skip_null("revoked")
        return None
    revoked = members.object("revoked")
    revocation = Revocation(
        revoked.time("at"), revoked.optional_time("compromised_since"), revoked.string("reason", empty=True)
    )
    revoked.end()
    return revocation


def _with_pem(entry: _KeyEntry, files: Mapping[str, bytes]) -> EvidenceKey:
    name = pem_name(entry.key_id)
    if name not in files:
        raise InvalidArgument.field(name, "is missing from the trust root")
    try:
        spki = from_pem(files[name].decode("ascii", "replace"))
    except ValueError as error:
        raise InvalidArgument.field(name, str(error)) from error
    if key_hint(spki) != entry.hint:
        raise InvalidArgument.field(name, f"is not the key whose hint {KEYS} has for {entry.key_id}")
    key = EvidenceKey(
        entry.key_id, entry.algorithm, spki, entry.valid_from, entry.valid_until, entry.tenants, entry.revoked
    )
    _evidence_key(key)
    return key


def _read_trusted_root(data: bytes) -> tuple[tuple[Log, ...], tuple[TimestampAuthority, ...]]:
    document = Members(strict_json(data))
    if document.string("mediaType") != TRUSTED_ROOT_MEDIA_TYPE:
        document.refuse("mediaType", f"must be {TRUSTED_ROOT_MEDIA_TYPE}")
    logs = tuple(map(_read_tlog, document.objects("tlogs")))
    if not logs:
        document.refuse("tlogs", "must not be empty")
    # A notary's trust root has none of these; one that has is read all the same, for they are not what is looked at.
    for unused in ("certificateAuthorities", "ctlogs"):
        if document.has(unused):
            document.array(unused)
    authorities = document.objects("timestampAuthorities") if document.has("timestampAuthorities") else []
    document.skip_null("timestampAuthorities")
    document.end()
    return logs, tuple(map(TimestampAuthority.from_members, authorities))


def _read_tlog(members: Members) -> Log:
    url = members.string("baseUrl")
    key, log_id = members.object("publicKey"), members.object("logId")
    members.one_of("hashAlgorithm", ("SHA2_256",))
    details = key.one_of("keyDetails", (ED25519, ECDSA_P256))
    valid_for = key.object("validFor")
    valid_from = valid_for.time("start")
    spki = key.base64("rawBytes")
    for each in (members, key, valid_for):
        each.end()
    if not url.startswith("https://"):
        members.refuse("baseUrl", "must be https:// and the log's origin")
    try:
        log = Log.of(url.removeprefix("https://"), spki, valid_from)
    except InvalidArgument as error:
        names = {"origin": "baseUrl", "spki": "publicKey.rawBytes"}
        fields = [FieldViolation(members.path(names[each.field]), each.message) for each in error.fields]
        raise InvalidArgument(error.message, fields=fields) from error
    if details != log.key_details:
        key.refuse("keyDetails", "is not what rawBytes is")
    if log_id.base64("keyId", size=32) != log.log_id:
        log_id.refuse("keyId", "is not the checkpoint key ID of this origin and key")
    log_id.end()
    return log


def _compare_vkeys(logs: tuple[Log, ...], data: bytes) -> None:
    lines = data.decode("utf-8", "replace").splitlines()
    try:
        vkeys = {VerifierKey.parse(line) for line in lines}
    except NoteError as error:
        raise InvalidArgument.field(LOG_VKEY, str(error)) from error
    if vkeys != {log.vkey for log in logs} or len(lines) != len(logs):
        raise InvalidArgument.field(LOG_VKEY, f"does not have the keys that {TRUSTED_ROOT} has")


def _compare_certificates(authorities: tuple[TimestampAuthority, ...], data: bytes) -> None:
    try:
        require_same_certificates(authorities, data.decode("utf-8", "replace"))
    except ValueError as error:
        raise InvalidArgument.field(TSA_PEM, str(error)) from error


def _within(file: str, read: Callable[[bytes], _Read], data: bytes) -> _Read:
    """Reads one file; an error names it before the member."""
    try:
        return read(data)
    except InvalidArgument as error:
        fields = [FieldViolation(f"{file}: {each.field}", each.message) for each in error.fields]
        raise InvalidArgument("the trust root is not valid", fields=fields) from error


# --- keys -------------------------------------------------------------------------------------------------------------


def _evidence_key(key: EvidenceKey) -> EvidencePublicKey:
    try:
        return load_ec(key.spki, key.algorithm)
    except ValueError as error:
        raise InvalidArgument.field(key.key_id, str(error)) from error


_KEY_ID_RULE = "must be `name:version`, the name of letters, digits, dots, dashes and underscores, such as signer:1"
