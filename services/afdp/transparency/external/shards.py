"""Which shard of a log takes entries: one that the settings name, or those of a Sigstore signing config.

Public logs open a new shard about twice a year, and freeze the old one. A signing config says where the shards are and
from when on each is used; the trusted root beside it has their keys. Both are files, read anew when they change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError
from sigstore_models.trustroot.v1 import Service, SigningConfig, TransparencyLogInstance, TrustedRoot

from afdp.errors import FailedPrecondition, InvalidArgument
from afdp.formats.spki import from_pem
from afdp.formats.trust import Log
from afdp.transparency.external.values import ApiVersion, Shard
from afdp.urls import refuse_plain

logger = logging.getLogger(__name__)

_READS = "/api/v2"
_LEFT_OUT = 600.0  # seconds: a shard is not frozen for good where it was only a proxy that said so


class NamedShard:
    """The one shard that the settings name."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._frozen = False

    async def usable(self) -> Sequence[Shard]:
        """As `Shards.usable`; a frozen one is tried again, as nothing else says that it is not any more."""
        return (self._shard,)

    def freeze(self, shard: Shard) -> None:
        """As `Shards.freeze`."""


class SigningConfigShards:
    """Those of a signing config that are valid now, the newest first.

    A frozen one is left out until a file changes, and tried again after ten minutes.
    """

    def __init__(
        self,
        name: str,
        api_version: ApiVersion,
        config: Path,
        trusted_root: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._api_version: ApiVersion = api_version
        self._files = (config, trusted_root)
        self._stamp: object = None
        self._shards: list[tuple[Service, Shard]] = []
        self._clock = clock
        self._frozen: dict[str, float] = {}  # by URL, until when

    async def usable(self) -> Sequence[Shard]:
        """As `Shards.usable`."""
        stamp = tuple(_stamp(file) for file in self._files)
        if stamp != self._stamp:
            self._shards = self._read()
            self._frozen.clear()
            self._stamp = stamp
        now = datetime.now(UTC)
        valid = [(service, shard) for service, shard in self._shards if _is_valid(service, now)]
        if not valid:
            raise FailedPrecondition(f"the signing config of {self._name} names no shard that is valid now")
        valid.sort(key=lambda each: _start(each[0]), reverse=True)
        moment = self._clock()
        return [shard for _, shard in valid if self._frozen.get(shard.url, moment) <= moment]

    def freeze(self, shard: Shard) -> None:
        """As `Shards.freeze`."""
        self._frozen[shard.url] = self._clock() + _LEFT_OUT

    def _read(self) -> list[tuple[Service, Shard]]:
        config_file, root_file = self._files
        try:
            config = SigningConfig.from_json(config_file.read_bytes())
            root = TrustedRoot.from_json(root_file.read_bytes())
        except (OSError, ValidationError, ValueError) as error:
            reason = f"the signing config or the trusted root of {self._name} cannot be read: {type(error).__name__}"
            raise FailedPrecondition(reason) from None
        logs = {_server(each.base_url): each for each in root.tlogs}
        return list(self._matched(config, logs))

    def _matched(
        self, config: SigningConfig, logs: Mapping[str, TransparencyLogInstance]
    ) -> Iterator[tuple[Service, Shard]]:
        for service in config.rekor_tlog_urls:
            if service.major_api_version != self._api_version:
                continue
            known = logs.get(_server(service.url))
            try:
                if known is None:
                    raise InvalidArgument(f"the trusted root has no key of {service.url}")
                yield service, self._shard(service, known)
            except InvalidArgument as error:
                fields = {"log": self._name, "reason": str(error)}
                logger.error("a shard of the signing config is left out", extra={"fields": fields})

    def _shard(self, service: Service, known: TransparencyLogInstance) -> Shard:
        url = _outgoing(service.url.rstrip("/"))
        valid_for, spki = known.public_key.valid_for, known.public_key.raw_bytes or b""
        began = valid_for.start if valid_for and valid_for.start else datetime.now(UTC)
        log = Log.of(_host(known.base_url), spki, began)
        return Shard(self._name, self._api_version, url, f"{url}{_READS}", log)


def named_shard(
    name: str, api_version: ApiVersion, url: str, public_key: str, *, origin: str = "", read_url: str = ""
) -> Shard:
    """A shard by its address and its key in PEM; its origin is the host of the address unless it is said.

    Raises:
        InvalidArgument: the key cannot be read, or no log of others can have such an origin.
    """
    try:
        spki = from_pem(public_key)
    except ValueError as error:
        raise InvalidArgument.field("public_key", str(error)) from None
    base = url.rstrip("/")
    log = Log.of(origin or _host(base), spki, datetime.now(UTC).replace(microsecond=0))
    return Shard(name, api_version, base, read_url.rstrip("/") or f"{base}{_READS}", log)


def _outgoing(url: str) -> str:
    try:
        return refuse_plain(url)
    except ValueError as error:
        raise InvalidArgument.field("url", str(error)) from None


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _server(url: str) -> str:
    return urlsplit(url).netloc.lower()


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _start(service: Service) -> datetime:
    start = service.valid_for.start if service.valid_for else None
    return start or datetime.min.replace(tzinfo=UTC)


def _is_valid(service: Service, now: datetime) -> bool:
    end = service.valid_for.end if service.valid_for else None
    return _start(service) <= now and (end is None or now < end)
