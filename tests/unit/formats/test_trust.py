from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore._internal.trust import KeyringPurpose
from sigstore.models import TrustedRoot
from sigstore_models.trustroot.v1 import TrustedRoot as SigstoreModel

from afdp.errors import InvalidArgument
from afdp.formats.hashedrekord import SignatureAlgorithm
from afdp.formats.trust import EvidenceKey, Log, Revocation, TrustRoot, read_trust_files, trust_files
from tests.local_authority import LocalAuthority

START = datetime(2026, 11, 1, tzinfo=UTC)


def spki(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


P256 = spki(ec.generate_private_key(ec.SECP256R1()))
P384 = spki(ec.generate_private_key(ec.SECP384R1()))
ED25519 = spki(Ed25519PrivateKey.from_private_bytes(bytes(32)))
FIRST = EvidenceKey(
    "afdp-notary-key:1",
    SignatureAlgorithm.ECDSA_P256_SHA256,
    P256,
    START,
    START + timedelta(days=90),
    ("acme", "initech"),
    Revocation(START + timedelta(days=91), START + timedelta(days=80), "laptop lost"),
)
SECOND = EvidenceKey("afdp-notary-key:2", SignatureAlgorithm.ECDSA_P384_SHA384, P384, START + timedelta(days=90))
LOG = Log.of("notary.localhost", ED25519, START)
ROOT = TrustRoot((FIRST, SECOND), (LOG,))


def exported() -> dict[str, bytes]:
    return {name: text.encode() for name, text in trust_files(ROOT).items()}


def test_a_trust_root_reads_back_as_it_was_written() -> None:
    files = exported()

    assert set(files) == {
        "trusted_root.json",
        "log.vkey",
        "keys.json",
        "keys/afdp-notary-key:1.pem",
        "keys/afdp-notary-key:2.pem",
    }
    assert read_trust_files(files) == ROOT


def test_keys_are_found_by_the_hint_that_bundles_carry() -> None:
    key, loaded = ROOT.key_of_hint[SECOND.hint]

    assert key == SECOND
    assert loaded.curve.name == "secp384r1"


def test_sigstore_reads_the_trusted_root_and_finds_the_log_key(tmp_path: Path) -> None:
    file = tmp_path / "trusted_root.json"
    file.write_text(trust_files(ROOT)["trusted_root.json"])

    TrustedRoot.from_file(str(file)).rekor_keyring(KeyringPurpose.VERIFY)

    [tlog] = SigstoreModel.from_json(file.read_bytes()).tlogs
    assert tlog.base_url == "https://notary.localhost"
    assert tlog.public_key.raw_bytes == ED25519
    assert tlog.log_id.key_id == LOG.log_id
    assert len(LOG.log_id) == 32
    assert LOG.vkey.key_id == LOG.log_id[:4]


def edited(file: str, change: Callable[[Any], object]) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        document = json.loads(files[file])
        change(document)
        files[file] = json.dumps(document).encode()

    return edit


def tlog(**members: Any) -> Callable[[dict[str, bytes]], None]:
    return edited("trusted_root.json", lambda document: document["tlogs"][0].update(members))


def key(**members: Any) -> Callable[[dict[str, bytes]], None]:
    return edited("keys.json", lambda document: document["keys"][0].update(members))


OTHER_LOG = Log.of("other.localhost", ED25519, START)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda files: files.pop("keys.json"), "keys.json: is missing"),
        (lambda files: files.pop("log.vkey"), "log.vkey: is missing"),
        (lambda files: files.pop("keys/afdp-notary-key:2.pem"), r"keys/afdp-notary-key:2\.pem: is missing"),
        (
            lambda files: files.update({"keys/afdp-notary-key:1.pem": files["keys/afdp-notary-key:2.pem"]}),
            r"keys/afdp-notary-key:1\.pem: is not the key whose hint",
        ),
        (lambda files: files.update({"keys/afdp-notary-key:1.pem": b"?"}), "must be a PEM public key"),
        (lambda files: files.update({"log.vkey": f"{OTHER_LOG.vkey}\n".encode()}), "log.vkey: does not have the keys"),
        (lambda files: files.update({"log.vkey": b"?\n"}), "log.vkey: the vkey"),
        (lambda files: files.update({"log.vkey": b""}), "log.vkey: does not have the keys"),
        (lambda files: files.update({"trusted_root.json": b"{"}), r"trusted_root\.json: body: not JSON"),
        (tlog(baseUrl="http://notary.localhost"), r"trusted_root\.json: tlogs\[0\]\.baseUrl: must be https"),
        (tlog(baseUrl="https://notary.localhost/log"), r"tlogs\[0\]\.baseUrl: a log origin must be a bare host"),
        (tlog(logId={"keyId": FIRST.hint}), r"tlogs\[0\]\.logId\.keyId: is not the checkpoint key ID"),
        (tlog(hashAlgorithm="SHA2_512"), r"tlogs\[0\]\.hashAlgorithm: must be one of SHA2_256"),
        (edited("trusted_root.json", lambda d: d.update(mediaType="x")), "mediaType: must be"),
        (edited("trusted_root.json", lambda d: d.update(tlogs=[])), "tlogs: must not be empty"),
        (edited("trusted_root.json", lambda d: d.update(more=[])), "more: is unknown"),
        (edited("keys.json", lambda d: d.update(keys=[])), r"keys\.json: keys: must not be empty"),
        (edited("keys.json", lambda d: d["keys"].append(d["keys"][0])), "the same key_id twice"),
        (key(key_id="../../etc/passwd:1"), r"keys\[0\]\.key_id: must be `name:version`"),
        (key(hint=SECOND.hint), r"keys/afdp-notary-key:1\.pem: is not the key whose hint"),
        (key(algorithm="PKIX_ECDSA_P384_SHA_384"), "afdp-notary-key:1: must be a key for PKIX_ECDSA_P384_SHA_384"),
        (key(algorithm="PKIX_ED25519"), r"keys\[0\]\.algorithm: must be one of"),
        (key(tenants=[]), r"keys\[0\]\.tenants: must not be empty"),
        (key(tenants="*"), r"keys\[0\]\.tenants: must be an array"),
        (key(valid_from="yesterday"), r"keys\[0\]\.valid_from: must be an RFC 3339 time"),
        (key(valid_until="2026-10-01T00:00:00Z"), r"keys\[0\]\.valid_until: must be after valid_from"),
        (key(revoked={"at": "2026-12-01T00:00:00Z"}), r"keys\[0\]\.revoked\.reason: is missing"),
        (key(revoked=True), r"keys\[0\]\.revoked: must be an object"),
    ],
)
def test_a_trust_root_whose_files_are_wrong_or_disagree_is_refused(
    change: Callable[[dict[str, bytes]], None], named: str
) -> None:
    files = exported()
    change(files)

    with pytest.raises(InvalidArgument, match=named):
        read_trust_files(files)


OURS = LocalAuthority("https://notary.localhost/api/v1/timestamp").trusted
THEIRS = replace(LocalAuthority().trusted, valid_until=START + timedelta(days=400))
WITH_AUTHORITIES = replace(ROOT, timestamp_authorities=(OURS, THEIRS))


def exported_with_authorities() -> dict[str, bytes]:
    return {name: text.encode() for name, text in trust_files(WITH_AUTHORITIES).items()}


def test_timestamp_authorities_read_back_as_they_were_written() -> None:
    read = read_trust_files(exported_with_authorities())

    assert read == WITH_AUTHORITIES
    assert [read.is_independent(each) for each in read.timestamp_authorities] == [False, True]


def test_sigstore_reads_the_timestamp_authorities(tmp_path: Path) -> None:
    file = tmp_path / "trusted_root.json"
    file.write_bytes(exported_with_authorities()["trusted_root.json"])

    ours, theirs = TrustedRoot.from_file(str(file)).get_timestamp_authorities()

    assert [each.public_bytes(Encoding.DER) for each in ours.certificates(allow_expired=True)] == [*OURS.certificates]
    assert (theirs.validity_period_start, theirs.validity_period_end) == (THEIRS.valid_from, THEIRS.valid_until)


def authority(**members: Any) -> Callable[[dict[str, bytes]], None]:
    return edited("trusted_root.json", lambda document: document["timestampAuthorities"][0].update(members))


def certificates(change: Callable[[list[Any]], object]) -> Callable[[dict[str, bytes]], None]:
    return edited(
        "trusted_root.json", lambda document: change(document["timestampAuthorities"][0]["certChain"]["certificates"])
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda files: files.pop("tsa.pem"), r"tsa\.pem: does not have the certificates"),
        (lambda files: files.update({"tsa.pem": files["tsa.pem"][:-30]}), r"tsa\.pem: must have whole certificates"),
        (
            lambda files: files.update({"tsa.pem": files["tsa.pem"].partition(b"-----END CERTIFICATE-----\n")[2]}),
            r"tsa\.pem: does not have the certificates",
        ),
        (authority(uri="no host"), r"timestampAuthorities\[0\]\.uri: must be a URI with a host"),
        (authority(validFor={}), r"timestampAuthorities\[0\]\.validFor\.start: is missing"),
        (
            authority(validFor={"start": "2026-11-02T00:00:00Z", "end": "2026-11-01T00:00:00Z"}),
            r"timestampAuthorities\[0\]\.validFor: must end after",
        ),
        (authority(more=1), r"timestampAuthorities\[0\]\.more: is unknown"),
        (authority(subject=None), r"timestampAuthorities\[0\]\.subject: must be an object"),
        (certificates(lambda chain: chain.pop()), r"timestampAuthorities\[0\]\.certChain: must have the authority's"),
        (certificates(lambda chain: chain.reverse()), r"timestampAuthorities\[0\]\.certChain: must have a first"),
        (certificates(lambda chain: chain[0].update(rawBytes="AAAA")), r"certChain: must be a certificate in DER"),
    ],
)
def test_timestamp_authorities_that_are_wrong_or_disagree_are_refused(
    change: Callable[[dict[str, bytes]], None], named: str
) -> None:
    files = exported_with_authorities()
    change(files)

    with pytest.raises(InvalidArgument, match=named):
        read_trust_files(files)


def test_a_log_key_is_ed25519_or_of_a_rekor_also_ecdsa_p256() -> None:
    rekor = Log.of("rekor.example", P256, START)

    assert rekor.log_id == sha256(P256).digest()
    files = {name: text.encode() for name, text in trust_files(TrustRoot((FIRST,), (LOG, rekor))).items()}
    assert read_trust_files(files).logs == (LOG, rekor)
    with pytest.raises(InvalidArgument, match="spki: must be an Ed25519 or ECDSA P-256 key"):
        Log.of("rekor.example", P384, START)


def test_an_origin_that_cosign_would_not_find_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="origin: a log origin must be a bare host name"):
        Log.of("notary.localhost/log", ED25519, START)


def test_two_versions_with_one_key_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="the same public key twice"):
        TrustRoot((FIRST, replace(FIRST, key_id="afdp-notary-key:9")), (LOG,))
