"""What `afdp doctor` looks at: a running stack through its notary, or services of this machine by their own `check`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import orjson

from afdp.cli.config import SERVICES
from afdp.cli.output import reasons
from afdp.client import NotaryClient, Retry
from afdp.client.errors import NotConnected
from afdp.client.tls import http_options
from afdp.errors import InvalidArgument, NotaryError, Unimplemented
from afdp.formats.note import Checkpoint, NoteError
from afdp.formats.timestamps import format_timestamp
from afdp.formats.trust import TrustRoot, read_trust_files

_APART = 5.0  # seconds that this machine's clock may be from the gateway's
_NEARLY = timedelta(days=90)
_TIMEOUT = 15.0  # seconds
_NO_SUCH = ": no such setting"
_CHECK_TIMEOUT = 120.0  # for a service's own check, whose looks have limits of their own


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: whose it is: a service, `stack`, `this machine`.
        name: what it is.
        good: whether it is as it should be.
        detail: what it is like.
        remedy: what to do; beside a good one, advice.
    """

    area: str
    name: str
    good: bool
    detail: str
    remedy: str = ""


# --- a running stack --------------------------------------------------------------------------------------------------


def of_running_stack(url: str) -> Iterator[Finding]:
    """What can be seen of a stack from outside, and what it says of itself.

    Raises:
        NotConnected: nobody answers at the URL.
    """
    with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False, **http_options(url)) as web:
        yield from _gateway(web, url)
        with NotaryClient(url, timeout=_TIMEOUT, retry=Retry(attempts=1)) as notary:
            yield _ready(notary)
            yield from _parts(notary)
            yield _log(web)
            yield from _trust(notary)


def _gateway(web: httpx.Client, url: str) -> Iterator[Finding]:
    began, before = time.monotonic(), datetime.now(UTC)
    try:
        answer = web.get("/health")
    except httpx.HTTPError as error:
        raise NotConnected(f"the notary at {url} cannot be reached: {error or type(error).__name__}") from None
    took = time.monotonic() - began
    version = _member(answer, "version")
    if answer.status_code != httpx.codes.OK or not version:
        remedy = "name the gateway's URL with --url or AFDP_URL"
        yield Finding("gateway", "service", False, f"{url} answers {answer.status_code}, not as a gateway does", remedy)
        return
    yield Finding("gateway", "service", True, f"version {version} at {url}, answers in {took * 1000:.0f} ms")
    yield from _apart(answer.headers.get("date", ""), before + timedelta(seconds=took / 2))


def _apart(date: str, here: datetime) -> Iterator[Finding]:
    """How far the gateway's clock is from this machine's; its header is in whole seconds."""
    try:
        there = parsedate_to_datetime(date).astimezone(UTC) + timedelta(seconds=0.5)
    except ValueError:
        return
    apart = abs((there - here).total_seconds())
    remedy = "synchronise both clocks (chrony or systemd-timesyncd)"
    good, detail = apart <= _APART, f"{max(0.0, apart - 0.5):.0f} s from this machine's"
    yield Finding("gateway", "clock", good, detail, "" if good else remedy)


def _member(answer: httpx.Response, name: str) -> str:
    try:
        value = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return ""
    return str(value.get(name, "")) if isinstance(value, dict) else ""


def _ready(notary: NotaryClient) -> Finding:
    try:
        notary.ready(writes=True)
    except NotaryError as error:
        return Finding("stack", "ready", False, reasons(error), "see below which part it is")
    return Finding("stack", "ready", True, "reads and writes")


def _parts(notary: NotaryClient) -> Iterator[Finding]:
    try:
        for part in notary.status():
            yield Finding(part.service, part.name, part.good, part.detail, part.remedy)
    except Unimplemented:
        yield Finding("notary", "status", True, "of an earlier version, which says nothing of its parts")
    except NotaryError as error:
        yield Finding("notary", "status", False, reasons(error), "look at the notary's log")


def _log(web: httpx.Client) -> Finding:
    remedy = "look at the transparency service, and at the gateway's AFDP_LOG_URL"
    try:
        answer = web.get("/log/checkpoint")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return Finding("transparency", "log", True, "nothing was logged yet")
        checkpoint = Checkpoint.parse(answer.raise_for_status().text.partition("\n\n")[0] + "\n")
    except (httpx.HTTPError, NoteError) as error:
        return Finding("transparency", "log", False, f"its checkpoint cannot be read: {error}", remedy)
    return Finding("transparency", "log", True, f"{checkpoint.origin}, {checkpoint.size} entries")


def _trust(notary: NotaryClient) -> Iterator[Finding]:
    try:
        root = read_trust_files({name: text.encode() for name, text in notary.trust_root().items()})
    except InvalidArgument as error:
        yield Finding("stack", "trust root", False, f"no verifier could read it: {reasons(error)}", "report this")
        return
    except NotaryError as error:
        yield Finding("stack", "trust root", False, reasons(error), "look at the notary's log")
        return
    yield Finding("stack", "trust root", True, f"{_count(root.keys, 'key')}, {_count(root.logs, 'log')}")
    yield from _certificates(root)


def _certificates(root: TrustRoot) -> Iterator[Finding]:
    """Those that stamps are given under now."""
    for authority in root.timestamp_authorities:
        if authority.valid_until is None:
            ends = authority.chain.valid_until
            left = ends - datetime.now(UTC)
            advice = "rotate the time-stamping key, or have the authority issue a new certificate"
            detail = f"certificates until {format_timestamp(ends)}"
            yield Finding("stack", authority.name, left > timedelta(0), detail, advice if left < _NEARLY else "")


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


# --- services of this machine -----------------------------------------------------------------------------------------


def installed_services() -> list[str]:
    """The services that are installed here."""
    return [service for service in SERVICES if importlib.util.find_spec(f"afdp.{service}") is not None]


def of_services(names: Sequence[str], environments: Mapping[str, Mapping[str, str]] | None = None) -> list[Finding]:
    """What each service says that it would find, were it started here with this environment and more of its own."""
    more = environments or {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        answers = pool.map(lambda name: _checked(name, {**os.environ, **more.get(name, {})}), names)
        return [finding for answer in answers for finding in answer]


def of_settings(names: Sequence[str]) -> list[Finding]:
    """Whether each service could read its settings in this environment."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        answers = list(pool.map(_settings, names))
    foreign = set.intersection(*({each.detail for each in answer} for answer in answers)) if answers else set()
    # A name that one service has and another has not is no mistake in an environment that they share.
    wrong = [
        finding
        for answer in answers
        for finding in answer
        if not finding.detail.endswith(_NO_SUCH) or finding.detail in foreign
    ]
    if wrong or not names:
        return list({finding.detail: finding for finding in wrong}.values())
    return [Finding("this machine", "settings", True, f"of {', '.join(names)}: can be read, and each is known")]


def _checked(service: str, environment: Mapping[str, str]) -> list[Finding]:
    done = _run(service, "check", environment)
    if done.returncode == 2:
        return _wrong_settings(service, done.stderr)
    try:
        found = orjson.loads(done.stdout)["findings"]
        return [
            Finding(service, str(each["name"]), bool(each["good"]), str(each["detail"]), str(each["remedy"]))
            for each in found
        ]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return [Finding(service, "check", False, f"ended with {done.returncode}: {last}", "report this")]


def _settings(service: str) -> list[Finding]:
    done = _run(service, "config", os.environ)
    return _wrong_settings(service, done.stderr) if done.returncode else []


def _wrong_settings(service: str, said: str) -> list[Finding]:
    lines = said.strip().splitlines()
    wrong = lines[lines.index("The settings are wrong:") + 1 :] if "The settings are wrong:" in lines else lines[-1:]
    remedy = f"correct it; `afdp config show {service}` shows what is in force"
    return [Finding(service, "settings", False, line, remedy) for line in wrong]


def _run(service: str, command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"afdp.{service}", command],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=_CHECK_TIMEOUT,
        check=False,
    )
