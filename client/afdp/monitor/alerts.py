"""Who is told what a monitor finds: an address that takes JSON, and Prometheus by a file for its node exporter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from afdp.errors import FailedPrecondition, Unavailable
from afdp.whole_file import write_whole

_ATTEMPTS = 5
_FIRST_DELAY = 0.5  # seconds; doubled each time
_TIMEOUT = 10.0  # seconds for all of one attempt
_HEADERS = {"Content-Type": "application/json", "User-Agent": "afdp-monitor"}


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told by POST; a 2xx is what it takes."""

    url: str

    def tell(self, alert: Mapping[str, Any]) -> None:
        """Posts one alert; what the receiver cannot take now is sent again, a few times.

        Raises:
            Unavailable: it did not take it.
        """
        body, delay = orjson.dumps(alert), _FIRST_DELAY
        said = ""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                status = asyncio.run(self._post(body))
                if 200 <= status < 300:
                    return
                said = f"answers {status}"
                if status < 500 and status not in (408, 429):
                    break
            except TimeoutError:
                said = f"gives no answer in {_TIMEOUT:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                said = str(error) or type(error).__name__
            if attempt < _ATTEMPTS:
                time.sleep(delay)
                delay *= 2
        raise Unavailable(f"the webhook did not take an alert: {said}")

    async def _post(self, body: bytes) -> int:
        """The status of the answer. Its body is nobody's business, and may be without end."""
        async with (
            asyncio.timeout(_TIMEOUT),
            httpx.AsyncClient(timeout=_TIMEOUT) as client,
            client.stream("POST", self.url, content=body, headers=_HEADERS) as answer,
        ):
            return answer.status_code


@dataclass(frozen=True, slots=True)
class Figures:
    """What Prometheus is told of a log.

    Attributes:
        reached: whether the last try to read it got an answer.
        good: whether all that was checked up to now is good.
        size: entries of the newest checkpoint that was verified.
        read: entries that were read.
        verified_at: when it was last found good, seconds since the epoch; None before the first time.
        matches: found up to now, by what they were found for.
        unreadable: entries of kinds that are not known, in this process.
    """

    origin: str
    reached: bool
    good: bool
    size: int
    read: int
    verified_at: float | None
    matches: Mapping[str, int]
    unreadable: int


def write_textfile(path: Path, figures: Figures) -> None:
    """Writes the figures in Prometheus' text format, whole or not at all.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    label = f'origin="{_escaped(figures.origin)}"'
    lines: list[str] = []

    def gauge(name: str, text: str, samples: Sequence[tuple[str, float]], kind: str = "gauge") -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}"))
        lines.extend(f"{name}{{{labels}}} {value:.17g}" for labels, value in samples)

    gauge("afdp_monitor_reached", "Whether the log answered the last time.", [(label, figures.reached)])
    gauge("afdp_monitor_good", "Whether all that was checked is good.", [(label, figures.good)])
    gauge("afdp_monitor_size", "Entries of the newest verified checkpoint.", [(label, figures.size)])
    gauge("afdp_monitor_read", "Entries that were read.", [(label, figures.read)])
    if figures.verified_at is not None:
        text = "When the log was last found good."
        gauge("afdp_monitor_verified_timestamp_seconds", text, [(label, figures.verified_at)])
    found = [(f'{label},watched="{_escaped(each)}"', count) for each, count in sorted(figures.matches.items())]
    gauge("afdp_monitor_matches_total", "Entries that were looked for.", found, "counter")
    text = "Entries of kinds that are not known."
    gauge("afdp_monitor_unreadable_total", text, [(label, figures.unreadable)], "counter")
    try:
        write_whole(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}") from error


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
