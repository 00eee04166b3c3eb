"""What the notary knows of its peers' keys: remembered, so that reading goes on while they are away."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from afdp.errors import InvalidArgument, NotaryError, Unavailable, Unimplemented
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.hashedrekord import SignatureAlgorithm
from afdp.formats.note import VerifierKey
from afdp.formats.trust import EvidenceKey, Revocation, TrustRoot
from afdp.formats.trust import Log as TrustedLog
from afdp.messages import signer as pb
from afdp.messages.signer import (
    GetPublicKeysRequest,
    GetTimestampAuthoritiesRequest,
    KeyPurpose,
    PublicKey,
    SignerServiceClient,
)
from afdp.messages.transparency import ExternalLog, Log, TransparencyServiceClient
from afdp.notary.external_directory import ExternalDirectory, trusted_log
from afdp.notary.logs import LogDirectory

logger = logging.getLogger(__name__)

FRESH = 5.0  # seconds for which keys are believed without asking again
_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """A log, as receipts and verifiers name it, and the witnesses that cosign its checkpoints.

    Attributes:
        quorum: how many witnesses must have cosigned a checkpoint; 0 where there are none.
        external: whether others run it.
    """

    trusted: TrustedLog
    vkey: VerifierKey
    base_url: str
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0
    external: bool = False


class KeyDirectory:
    """Evidence keys by ID, time-stamping authorities, and the logs."""

    def __init__(self, signer: SignerServiceClient, transparency: TransparencyServiceClient) -> None:
        self._signer = signer
        self.logs = LogDirectory(transparency)
        self.external = ExternalDirectory(transparency)
        self._keys: list[PublicKey] = []
        self._by_id: dict[str, EvidenceKey] = {}
        self._stampers: list[pb.TimestampAuthority] = []
        self._authorities: tuple[TimestampAuthority, ...] | None = None
        self._identities: dict[str, tuple[Log, LogIdentity]] = {}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()
        self.changed = asyncio.Event()  # set when a key was changed through us

    async def evidence_key(self, key_id: str) -> EvidenceKey:
        """One version of the evidence key.

        Raises:
            Unavailable: it is not known here, and the signer cannot be asked or does not know it either.
        """
        known = self._by_id.get(key_id)
        if known is None:
            await self._refresh()
            known = self._by_id.get(key_id)
        if known is None:
            raise Unavailable("the signer does not list the key version of this record", retry_after=FRESH)
        return known

    async def authorities(self, *, newest: bool = False) -> tuple[TimestampAuthority, ...]:
        """The time-stamping authorities, as last seen, or as the signer says now.

        Raises:
            Unavailable: they were never seen, or `newest` is asked for and the signer is away.
        """
        if newest or not self._keys:
            await self._refresh()
        if self._authorities is None:
            origin = (await self.log()).trusted.origin
            known = [_authority(each, f"https://{origin}/api/v1/timestamp") for each in self._stampers]
            self._authorities = tuple(each for each in known if each is not None)
        return self._authorities

    async def log(self, origin: str = "", checkpoint: str = "") -> LogIdentity:
        """A log, ours or one of others; our first one where no origin is given.

        `checkpoint`, a signed note, says which key is meant where a log of others had several.

        Raises:
            Unavailable: it is not known here, and the log service cannot be asked or does not know it either.
        """
        if origin and all(each.origin != origin for each in await self.logs.logs()):
            other = await self.external.find(origin, checkpoint)
            if other is not None:
                return _others(other)
        found = await self.logs.log(origin)
        known = self._identities.get(found.origin)
        if known is None or known[0] is not found:
            known = self._identities[found.origin] = found, await self._identified(found)
        return known[1]

    async def external_log(self, name: str) -> LogIdentity:
        """The log of others that entries for a name of the settings go to now.

        Raises:
            Unavailable: the log service does not say.
        """
        return _others(await self.external.current(name))

    async def _identified(self, found: Log) -> LogIdentity:
        keys = [key for key in await self.versions() if key.purpose == KeyPurpose.LOG]
        own = [key for key in keys if key.spki == found.spki] or keys
        began = min(key.valid_from for key in own if key.valid_from)
        trusted = TrustedLog.of(found.origin, found.spki, began)
        witnesses = tuple(VerifierKey.parse(each) for each in found.witnesses)
        return LogIdentity(trusted, trusted.vkey, found.base_url, witnesses, found.witness_quorum)

    async def versions(self) -> list[PublicKey]:
        """Every key version, at most `FRESH` seconds old, or as last seen while the signer is away.

        Raises:
            Unavailable: none was ever seen.
        """
        if asyncio.get_running_loop().time() - self._asked > FRESH:
            try:
                await self._refresh()
            except NotaryError:
                if not self._keys:
                    raise
        return self._keys

    async def version(self, key_id: str) -> PublicKey | None:
        """A version of any key; what is not known yet is asked for."""
        for _ in range(2):
            for key in await self.versions():
                if key.key_id == key_id:
                    return key
            self._asked = float("-inf")
        return None

    async def trust_root(self) -> TrustRoot:
        """What a verifier has to trust."""
        versions = await self.versions()
        evidence = tuple(self._by_id[key.key_id] for key in versions if key.key_id in self._by_id)
        logs = [(await self.log(each.origin)).trusted for each in await self.logs.logs()]
        ours = {log.origin for log in logs}
        others = [each for each in await self.external.logs() if each.origin not in ours]
        logs += map(trusted_log, others)  # under each key that it had: what was signed with it verifies for ever
        return TrustRoot(evidence, tuple(logs), await self.authorities())

    def forget(self) -> None:
        """Asks again next time: keys were changed through us."""
        self._asked = float("-inf")
        self.changed.set()

    async def _refresh(self) -> None:
        async with self._lock:
            stampers = await self._asked_for_authorities()
            answer = await self._signer.get_public_keys(GetPublicKeysRequest(), timeout=_TIMEOUT)
            if stampers != self._stampers:
                self._stampers, self._authorities = stampers, None
            self._keys = answer.keys
            self._by_id = {key.key_id: _evidence_key(key) for key in answer.keys if key.purpose == KeyPurpose.EVIDENCE}
            self._asked = asyncio.get_running_loop().time()

    async def _asked_for_authorities(self) -> list[pb.TimestampAuthority]:
        request = GetTimestampAuthoritiesRequest()
        try:
            return (await self._signer.get_timestamp_authorities(request, timeout=_TIMEOUT)).authorities
        except Unimplemented:  # a signer of the release before, while a deployment is under way: it stamps nothing
            return []


def _others(log: ExternalLog) -> LogIdentity:
    trusted = trusted_log(log)
    return LogIdentity(trusted, trusted.vkey, log.base_url, external=True)


def _authority(authority: pb.TimestampAuthority, own_uri: str) -> TimestampAuthority | None:
    """As a trust root has it; None where no verifier could read it."""
    if authority.valid_from is None:
        raise Unavailable("the signer does not say since when a time-stamping authority's stamps count")
    interval = authority.valid_from, authority.valid_until
    try:
        return TimestampAuthority.of(authority.url or own_uri, authority.certificates, *interval)
    except InvalidArgument as error:
        logger.error("a time-stamping authority is left out", extra={"fields": {"reason": str(error)}})
        return None


def _evidence_key(key: PublicKey) -> EvidenceKey:
    if key.valid_from is None:
        raise Unavailable(f"the signer does not say since when {key.key_id} is valid")
    revoked = None
    if key.revoked is not None and key.revoked.at is not None:
        revoked = Revocation(key.revoked.at, key.revoked.compromised_since, key.revoked.reason)
    return EvidenceKey(
        key_id=key.key_id,
        algorithm=SignatureAlgorithm(key.algorithm),
        spki=key.spki,
        valid_from=key.valid_from,
        valid_until=key.valid_until,
        tenants=tuple(key.tenants),
        revoked=revoked,
    )
