"""The trust root: what it says now, and its TUF repository, kept up with the keys.

Until a repository is initialised (`afdp trust init`), the trust root is what the notary's peers say, and nothing else.
From then on its offline roles say which keys are revoked, and the online ones follow the keys: whatever changes, and
whatever is about to expire, is signed anew and published. Any number of notaries do so at once; the metadata service
takes one publication after the other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import Counter, Gauge

from afdp.errors import Aborted, DataLoss, FailedPrecondition, FieldViolation, InvalidArgument, NotaryError, NotFound
from afdp.formats.authorities import TimestampAuthority
from afdp.formats.repository import ROOT, TARGETS, TIMESTAMP, is_served_name
from afdp.formats.trust import TrustRoot, trust_files
from afdp.messages.metadata import (
    GetTrustFileRequest,
    GetTrustFilesRequest,
    MetadataServiceClient,
    PutTrustFilesRequest,
    TrustFile,
)
from afdp.messages.signer import KeyPurpose, SignerServiceClient, SignTrustMetadataRequest
from afdp.notary.keys import FRESH, KeyDirectory
from afdp.notary.status import Part

if TYPE_CHECKING:
    from afdp.notary.repository import Repository
    from afdp.trust.offline import Offline

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_FILES = 64
MAX_FILE_BYTES = 1024 * 1024
ATTEMPTS = 8
RENEW_AT = 0.5  # of its life left

_TIMEOUT = 5.0
_SOON = timedelta(days=30)
_PAUSE = 0.1  # seconds, between attempts of notaries that get in each other's way

_published = Counter("afdp_trust_publications", "Publications of the trust root by this notary.")
_failures = Counter("afdp_trust_publication_failures", "Publications of the trust root that failed.", ["code"])
_expiry = Gauge(
    "afdp_trust_expiry_timestamp_seconds", "When metadata of the trust root expires, as Unix time.", ["role"]
)


@dataclass(frozen=True, slots=True)
class Versions:
    """What is published, in numbers."""

    root: int
    targets: int
    timestamp: int


class TrustOffice:
    """Says what to trust, and publishes it."""

    def __init__(
        self,
        keys: KeyDirectory,
        signer: SignerServiceClient,
        metadata: MetadataServiceClient,
        lifetime: timedelta,
        interval: float,
    ) -> None:
        """A repository is looked for, and kept up, every `interval` seconds; a timestamp is valid for `lifetime`."""
        self._keys = keys
        self._signer = signer
        self._metadata = metadata
        self._lifetime = lifetime
        self._interval = interval
        self._repository: Repository | None = None
        self._read = float("-inf")
        self._said: tuple[int, TrustRoot] | None = None
        self._fault = ""  # why the repository is not kept up
        self._asked = asyncio.Event()
        self._lock = asyncio.Lock()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def root(self) -> TrustRoot:
        """What a verifier has to trust, as far as the notary knows.

        Raises:
            Unavailable: what is published was never read, or the peers never said which keys there are.
        """
        repository, live = await self.repository(), await self._keys.trust_root()
        return live if repository is None else repository.believed(live)

    async def files(self) -> tuple[dict[str, str], dict[str, str]]:
        """The files of `afdp trust export`, and with what waits for the offline roles: text by relative path."""
        repository, live = await self.repository(), await self._keys.trust_root()
        if repository is None:
            return trust_files(live), {}
        return repository.export(live), repository.pending(live)

    async def independent(self) -> tuple[TimestampAuthority, ...]:
        """The time-stamping authorities outside that the files of `afdp trust export` name.

        Raises:
            Unavailable: as `root`.
        """
        repository = await self.repository()
        return (await self._keys.trust_root() if repository is None else repository.root).independent_authorities

    async def file(self, name: str) -> bytes:
        """One file of the repository.

        Raises:
            NotFound: there is none of this name, or no repository.
        """
        if not is_served_name(name):
            raise NotFound("the trust root has no file of this name")
        return (await self._metadata.get_trust_file(GetTrustFileRequest(name), timeout=_TIMEOUT)).content

    async def repository(self) -> Repository | None:
        """What is published, at most `FRESH` seconds old, or as last seen; None where nothing is.

        Raises:
            Unavailable: it was never seen.
        """
        if asyncio.get_running_loop().time() - self._read > FRESH:
            try:
                await self._reread()
            except NotaryError:
                if self._read == float("-inf"):
                    raise
        return self._repository

    async def status(self) -> list[Part]:
        """How it is, for operators: one part, `trust root`.

        Raises:
            Unavailable: what is published was never read, or the peers never said which keys there are.
        """
        repository, live = await self.repository(), await self._keys.trust_root()
        if repository is None:
            detail = "not signed offline: verifiers believe what the notary exports, also where it takes something back"
            return [Part("notary", "trust root", True, detail, "begin a repository: afdp trust init")]
        return [_part(repository, live, self._fault)]

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, files: Mapping[str, bytes]) -> Versions:
        """Publishes what the offline roles have signed, and has the rest signed anew. May be repeated.

        Raises:
            InvalidArgument: a file is wrong, or not signed as it must be; it is named.
            FailedPrecondition: it does not follow from what is published, or delegates to another key than
                the signer's.
            Aborted: other notaries got in the way again and again.
        """
        _check_files(files)
        self._keys.forget()
        return _versions(await self._persistently(lambda: self._publish(files)))

    def ask(self) -> None:
        """Says that keys have changed: looks at once."""
        self._asked.set()

    async def run(self) -> None:
        """Keeps the repository up until cancelled."""
        while True:
            try:
                await self._persistently(self._keep_up)
                self._fault = ""
            except NotaryError as error:
                _failures.labels(error.code).inc()
                if self._fault != str(error):
                    logger.warning("the trust root was not published", extra={"fields": {"reason": str(error)}})
                self._fault = str(error)
            await self._until_asked(self._interval * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    async def _until_asked(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        self._asked.clear()

    async def _publish(self, files: Mapping[str, bytes]) -> Repository:
        await _import_tuf()
        from afdp.notary.repository import offline_after

        old = await self._reread()
        try:
            offline = await asyncio.to_thread(offline_after, old, files)
        except InvalidArgument as error:
            raise _of_request(error, list(files)) from error
        if old is not None and offline.files == old.offline.files:
            return old
        return await self._put(old, offline)

    async def _keep_up(self) -> None:
        repository = await self._reread()
        if repository is None:
            return
        live = await self._keys.trust_root()
        if repository.life_left(self._lifetime) < RENEW_AT or not await self._says(repository, live):
            await self._put(repository, repository.offline)

    async def _says(self, repository: Repository, live: TrustRoot) -> bool:
        """As `Repository.says`, remembered: it is asked every few seconds."""
        if self._said != (repository.revision, live):
            if not await asyncio.to_thread(repository.says, live):
                return False
            self._said = (repository.revision, live)
        return True

    async def _put(self, old: Repository | None, offline: Offline) -> Repository:
        """Signs and writes the publication that follows `old`."""
        from afdp.notary.repository import publication, require_online_key

        versions = await self._keys.versions()
        signing = next(key for key in versions if key.purpose == KeyPurpose.TRUST and key.current)
        require_online_key(offline, signing.spki)
        files = await publication(old, offline, await self._keys.trust_root(), self._lifetime, self._sign)
        known = old.files if old is not None else {}
        request = PutTrustFilesRequest(
            base_revision=old.revision if old is not None else 0,
            files=[TrustFile(name, data) for name, data in files.items() if known.get(name) != data],
            kept=[name for name, data in files.items() if known.get(name) == data],
        )
        await self._metadata.put_trust_files(request, timeout=_TIMEOUT)
        _published.inc()
        repository = await self._reread()
        if repository is None:
            raise DataLoss("the trust root was published, and is not there")
        fields = {"targets": repository.offline.targets.version, "revision": repository.revision}
        logger.info("the trust root was published", extra={"fields": fields})
        return repository

    async def _sign(self, signed: bytes) -> tuple[bytes, bytes]:
        answer = await self._signer.sign_trust_metadata(SignTrustMetadataRequest(signed), timeout=_TIMEOUT)
        return answer.public_key, answer.signature

    async def _reread(self) -> Repository | None:
        """What is published now."""
        known = self._repository.revision if self._repository is not None else 0
        answer = await self._metadata.get_trust_files(GetTrustFilesRequest(known), timeout=_TIMEOUT)
        if answer.revision != known:
            await _import_tuf()
            from afdp.notary.repository import Repository

            files = {file.name: file.content for file in answer.files}
            self._repository = await asyncio.to_thread(Repository.read, answer.revision, files)
            _show_expiry(self._repository)
        self._read = asyncio.get_running_loop().time()
        return self._repository

    async def _persistently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does work again where another notary got in its way."""
        for attempt in range(ATTEMPTS):
            try:
                async with self._lock:
                    return await work()
            except (Aborted, FailedPrecondition) as error:
                contended = isinstance(error, Aborted) or "last_version" in error.metadata
                if not contended or attempt == ATTEMPTS - 1:
                    raise
            await asyncio.sleep(_PAUSE * 2**attempt * random.random())  # noqa: S311 - no secret
        raise AssertionError("the last attempt returns or raises")


async def _import_tuf() -> None:
    """Imports python-tuf, once, without holding up anybody."""
    await asyncio.to_thread(import_module, "afdp.notary.repository")


def _versions(repository: Repository) -> Versions:
    offline = repository.offline
    return Versions(offline.root.version, offline.targets.version, repository.online.versions[TIMESTAMP])


def _show_expiry(repository: Repository) -> None:
    offline = repository.offline
    expiry = {ROOT: offline.root.expires, TARGETS: offline.targets.expires, **repository.online.expires}
    for role, time in expiry.items():
        _expiry.labels(role).set(time.timestamp())


def _part(repository: Repository, live: TrustRoot, fault: str) -> Part:
    offline, now = repository.offline, datetime.now(UTC)
    role, ends = min(((ROOT, offline.root.expires), (TARGETS, offline.targets.expires)), key=lambda each: each[1])
    detail = f"signed offline, {role} until {ends:%Y-%m-%d}"
    sign = "sign it with the offline keys: afdp trust sign DIR"
    if ends <= now:
        return Part("notary", "trust root", False, f"{role} has expired on {ends:%Y-%m-%d}", sign)
    if fault:
        return Part("notary", "trust root", False, f"{detail}; it cannot be published: {fault}", "see the notary's log")
    if waiting := repository.unsigned_revocations(live):
        return Part("notary", "trust root", False, f"{detail}; the revocation of {waiting[0]} is not signed", sign)
    if repository.pending(live) or ends - now < _SOON:
        return Part("notary", "trust root", True, f"{detail}; something waits, or expires soon", sign)
    return Part("notary", "trust root", True, detail)


def _check_files(files: Mapping[str, bytes]) -> None:
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidArgument.field("files", f"must be 1 to {MAX_FILES} files")
    for index, data in enumerate(files.values()):
        if len(data) > MAX_FILE_BYTES:
            raise InvalidArgument.field(f"files[{index}].content", f"must be at most {MAX_FILE_BYTES} bytes")


def _of_request(error: InvalidArgument, names: Sequence[str]) -> InvalidArgument:
    """What is wrong with the files, as faults of the request that brought them."""
    return InvalidArgument("what was signed is not valid", fields=[_fault(each, names) for each in error.fields])


def _fault(fault: FieldViolation, names: Sequence[str]) -> FieldViolation:
    if fault.field.startswith("files"):
        return fault
    field = f"files[{names.index(fault.field)}].content" if fault.field in names else "files"
    return FieldViolation(field, f"{fault.field} {fault.message}")
