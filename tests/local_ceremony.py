"""Offline keys and what they sign, for tests, without a notary; and a hand that signs what it should not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from afdp.ceremony.keys import OfflineKey, make_key
from afdp.ceremony.notary import Notary
from afdp.ceremony.plan import Wishes, first_plan, next_plan
from afdp.ceremony.signing import Unsigned, first_metadata, next_metadata
from afdp.formats.repository import ROOT, TARGETS
from afdp.formats.trust import TrustRoot, trust_files
from afdp.trust.offline import Offline
from tests.local_notary import LocalNotary

PASSPHRASE = b"correct horse"


@dataclass
class LocalCeremony:
    """A repository's offline side."""

    folder: Path
    root: TrustRoot = field(default_factory=lambda: LocalNotary().trust)
    online: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    keys: list[OfflineKey] = field(default_factory=list)

    @property
    def notary(self) -> Notary:
        """What a notary would say."""
        hints = {key.key_id: key.hint for key in self.root.keys}
        return Notary(self.online.public_key().public_bytes_raw(), hints, trust_files(self.root))

    def make(self, role: str) -> OfflineKey:
        """A fresh key."""
        self.keys.append(make_key(self.folder, role, PASSPHRASE))
        return self.keys[-1]

    def first(self, *, keys: int = 1, threshold: int = 1, days: int = 90) -> Unsigned:
        """A new repository, unsigned."""
        counts, thresholds = dict.fromkeys((ROOT, TARGETS), keys), dict.fromkeys((ROOT, TARGETS), threshold)
        return first_metadata(first_plan(self.notary, days, days), self.make, counts, thresholds)

    def next(self, offline: Offline, wishes: Wishes | None = None) -> Unsigned:
        """What follows, unsigned."""
        return next_metadata(offline, next_plan(offline, self.notary, wishes or Wishes()), self.make)

    def signed(self, unsigned: Unsigned) -> Offline:
        """Signed with every key."""
        unsigned.sign(self.keys)
        return unsigned.complete()

    def forged(self, files: Mapping[str, bytes], name: str, **changes: Any) -> dict[str, bytes]:
        """The files with one of metadata changed, and signed again by the offline keys."""
        metadata: Metadata[Root] | Metadata[Targets] = Metadata.from_bytes(files[name])
        for attribute, value in changes.items():
            setattr(metadata.signed, attribute, value)
        return {**files, name: signed_by(metadata, *(key.signer for key in self.keys))}


def signed_by(metadata: Metadata[Any], *signers: CryptoSigner) -> bytes:
    """Metadata, signed by these alone."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
