"""A notary in memory, for tests: receipts made with the real formats, keys of its own and a log of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from afdp.formats.anchor import Anchor
from afdp.formats.bundle import Bundle, bundle_json
from afdp.formats.dsse import IN_TOTO_PAYLOAD_TYPE, pae
from afdp.formats.encoding import b64
from afdp.formats.evidence import Actor, Artifact, EvidencePackage, canonical_evidence
from afdp.formats.hashedrekord import SignatureAlgorithm, entry_body, key_hint
from afdp.formats.merkle import leaf_hash
from afdp.formats.note import Note
from afdp.formats.receipt import Receipt
from afdp.formats.statement import Submitter, statement_bytes
from afdp.formats.trust import EvidenceKey, TrustRoot, trust_files
from tests.local_authority import LocalAuthority
from tests.local_log import FOUNDED, LocalLog

NOTARIZED_AT = datetime(2026, 11, 24, 4, 9, 28, 250_000, tzinfo=UTC)
STAMPED_AT = NOTARIZED_AT + timedelta(milliseconds=3)
MODEL = b"the weights of a model"
CARD = b"the card of a model"


def evidence_of(artifacts: Mapping[str, bytes], **metadata: object) -> EvidencePackage:
    """An evidence package over these artifacts."""
    return EvidencePackage(
        spec_version="1.0.0",
        timestamp_utc=NOTARIZED_AT,
        event_type="ai.model.deployment.completed",
        actor=Actor("workload", "ci@acme"),
        artifacts=tuple(Artifact(name, sha256(data).hexdigest()) for name, data in artifacts.items()),
        metadata=metadata,
    )


@dataclass
class LocalNotary:
    """Signs, stamps and logs; `trust` is what a verifier believes."""

    curve: ec.EllipticCurve = field(default_factory=ec.SECP256R1)
    log: LocalLog = field(default_factory=LocalLog)
    tenant: str = "acme"
    key_id: str = "afdp-notary-key:3"
    authority: LocalAuthority = field(
        default_factory=lambda: LocalAuthority("https://notary.localhost/api/v1/timestamp")
    )
    key: ec.EllipticCurvePrivateKey = field(init=False)
    made: int = 0

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(self.curve)

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """What it signs with."""
        p256 = isinstance(self.curve, ec.SECP256R1)
        return SignatureAlgorithm.ECDSA_P256_SHA256 if p256 else SignatureAlgorithm.ECDSA_P384_SHA384

    @property
    def spki(self) -> bytes:
        """Its public key."""
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def evidence_key(self) -> EvidenceKey:
        """Its key as a trust root has it."""
        return EvidenceKey(self.key_id, self.algorithm, self.spki, FOUNDED, tenants=(self.tenant,))

    @property
    def trust(self) -> TrustRoot:
        """What to believe."""
        return TrustRoot((self.evidence_key,), (self.log.log,), (self.authority.trusted,))

    def trusting(self, **key: Any) -> TrustRoot:
        """What to believe where other things are known of the key."""
        return replace(self.trust, keys=(replace(self.evidence_key, **key),))

    def write_trust(self, folder: Path, trust: TrustRoot | None = None) -> Path:
        """The trust root as a folder."""
        for name, text in trust_files(trust or self.trust).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return folder

    def notarise(
        self,
        package: EvidencePackage | None = None,
        *,
        crowd: int = 6,
        logged: bool = True,
        payload: bytes | None = None,
        approvals: Sequence[Mapping[str, object]] = (),
        stamped_at: datetime | None = STAMPED_AT,
    ) -> Receipt:
        """A receipt, its entry with `crowd` others around it in the log; without a time it has no stamp."""
        self.made += 1
        receipt_id = f"0199d3a0-0000-7000-8000-{self.made:012x}"
        canonical = canonical_evidence(package or evidence_of({"model.bin": MODEL, "model.md": CARD}, build=7))
        digest = sha256(canonical).hexdigest()
        artifacts = [(each["name"], each["hash_sha256"]) for each in json.loads(canonical)["artifacts"]]
        payload = payload or statement_bytes(
            canonical,
            digest,
            artifacts,
            self.tenant,
            Submitter("https://issuer.example", "ci@acme", "oidc"),
            f"simple-signing-{receipt_id}",
            NOTARIZED_AT,
            bytes(range(32)),
            approvals,
        )
        to_sign = pae(IN_TOTO_PAYLOAD_TYPE, payload)
        hash_algorithm = hashes.SHA256() if self.algorithm.digest_size == 32 else hashes.SHA384()
        signature = self.key.sign(to_sign, ec.ECDSA(hash_algorithm))
        stamps = [self.authority.stamp(signature, stamped_at)] if stamped_at else []
        body = entry_body(self.algorithm.digest(to_sign), signature, self.spki, self.algorithm)
        entry = None
        if logged:
            before, after = crowd // 2, crowd - crowd // 2
            self.log.append([*(b"before %d.%d" % (self.made, n) for n in range(before)), body])
            index = len(self.log.entries) - 1
            self.log.append(b"after %d.%d" % (self.made, n) for n in range(after))
            entry = self.log.proven(index)
        return Receipt(
            evidence_package_hash=digest,
            rekor_log_id=leaf_hash(body).hex(),
            rekor_server_url="http://127.0.0.1:8053",
            signature_b64=b64(signature),
            public_key_b64=b64(self.spki),
            integrated_time=int((stamped_at or NOTARIZED_AT).timestamp()),
            log_index=entry.log_index if entry else 0,
            receipt_id=receipt_id,
            state="logged" if logged else "signed",
            key_id=self.key_id,
            bundle=Bundle.from_json(
                bundle_json(
                    hint=key_hint(self.spki), payload=payload, signature=signature, entry=entry, timestamps=stamps
                )
            ),
        )

    def anchor(self, receipt: Receipt, authority: LocalAuthority, time: datetime) -> Anchor:
        """The log as it is now, stamped by an authority, with the receipt's entry in it."""
        entry = self.log.proven(receipt.log_index)
        stamp = authority.stamp(Note.parse(entry.checkpoint).text.encode(), time)
        return Anchor(entry.log_index, entry.tree_size, tuple(entry.hashes), entry.checkpoint, stamp)
