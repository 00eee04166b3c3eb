"""`afdp log fsck`: a whole log, recomputed from its entries."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

import click

from afdp.cli.config import run_service
from afdp.cli.files import progress, read_document
from afdp.cli.options import NOT_GOOD, Unreachable, Unreadable, json_option
from afdp.cli.output import say, say_json
from afdp.formats.encoding import b64
from afdp.formats.note import NoteError, VerifierKey
from afdp.verify.fsck import VKEY, LogReport, TileSource, check_log

_READ_AHEAD = 8
_MAX_FILE_BYTES = 256 * (65_535 + 2)  # the largest entry bundle
_TIMEOUT_SECONDS = 30.0


@click.command(short_help="Recompute a whole log from its entries and name the first bad byte.")
@click.argument("source", metavar="SOURCE")
@click.option("--vkey", metavar="FILE", help="The log's note verifier key; by default SOURCE/vkey, which is said.")
@json_option
def fsck(source: str, vkey: str | None, as_json: bool) -> None:
    """Recompute a whole log from its entries and name the first bad byte.

    SOURCE is the URL of a tiled log, a folder of tiles, or the word `database`: then the transparency service on this
    machine checks its own, by its settings. Exit: 0 sound, 1 not sound, 2 cannot be read, 3 not reachable.
    """
    if source == "database":
        raise click.exceptions.Exit(run_service("transparency", "fsck"))
    with _open(source) as files:
        key = _read_vkey(files, vkey)
        with progress("entries", in_bytes=False) as told:
            report = check_log(files, key, told)
    trusted = vkey or f"{source.rstrip('/')}/{VKEY}"
    if as_json:
        say_json(_to_object(report, source, key, trusted))
    else:
        _show(report, key, trusted, own=vkey is None)
    if report.fault:
        raise click.exceptions.Exit(NOT_GOOD)


def _show(report: LogReport, key: VerifierKey, trusted: str, *, own: bool) -> None:
    say(f"  key          {key} from {trusted}")
    if own:
        say(
            "               the log's own word: compare it with one that you trust, or name that with --vkey",
            fg="yellow",
        )
    if report.checkpoint:
        say(f"  checkpoint   {report.checkpoint.origin}, {report.checkpoint.size} entries, root {_root(report)}")
    say(f"  read         {report.entries} entries, {report.tiles} tiles")
    if report.fault:
        say(f"  {report.fault}", fg="red")
        say("NOT SOUND", fg="red", bold=True)
    else:
        say("SOUND", fg="green", bold=True)


def _to_object(report: LogReport, source: str, key: VerifierKey, trusted: str) -> dict[str, object]:
    checkpoint, fault = report.checkpoint, report.fault
    return {
        "source": source,
        "vkey": str(key),
        "vkey_from": trusted,
        "sound": fault is None,
        "origin": checkpoint and checkpoint.origin,
        "size": checkpoint and checkpoint.size,
        "root": checkpoint and _root(report),
        "entries_read": report.entries,
        "tiles_read": report.tiles,
        "fault": fault and {"path": fault.path, "offset": fault.offset, "reason": fault.reason},
    }


def _root(report: LogReport) -> str:
    return b64(report.checkpoint.root) if report.checkpoint else ""


def _read_vkey(files: TileSource, given: str | None) -> VerifierKey:
    data = files.read(VKEY) if given is None else read_document(given)
    if data is None:
        raise Unreadable("the log does not say its key (no file `vkey`); name one that you trust with --vkey FILE")
    try:
        return VerifierKey.parse(data.decode("utf-8", "replace").strip())
    except NoteError as error:
        raise Unreadable(f"{given or VKEY}: {error}") from error


# --- where the files are ----------------------------------------------------------------------------------------------


def _open(source: str) -> AbstractContextManager[TileSource]:
    if source.startswith(("http://", "https://")):
        return _Url(source)
    folder = Path(source)
    if not folder.is_dir():
        raise Unreadable(f"{source} is neither a URL (http:// or https://) nor a folder, nor the word `database`")
    return nullcontext(_Folder(folder))


class _Folder:
    """A folder of tiles."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        """A file of the log."""
        file = self._folder / path
        try:
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unreadable(f"{file}: {error.strerror}") from error

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Files of the log."""
        return map(self.read, paths)


class _Url:
    """A log over HTTP: one connection pool, a few requests ahead."""

    def __init__(self, url: str) -> None:
        import httpx  # only a URL needs it

        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            timeout=_TIMEOUT_SECONDS,
            transport=httpx.HTTPTransport(retries=2),
            limits=httpx.Limits(max_connections=_READ_AHEAD),
        )
        self._pool = ThreadPoolExecutor(_READ_AHEAD)

    def __enter__(self) -> _Url:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def read(self, path: str) -> bytes | None:
        """A file of the log."""
        try:
            with self._client.stream("GET", path) as response:
                if response.status_code == 404:
                    return None
                if response.status_code != 200:
                    raise Unreachable(f"{response.url} answers {response.status_code}")
                return self._body(path, response.iter_bytes())
        except self._errors as error:
            raise Unreachable(f"{self._client.base_url}{path}: {error or type(error).__name__}") from error

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Files of the log, a few read ahead."""
        ahead: deque[Future[bytes | None]] = deque()
        for path in paths:
            ahead.append(self._pool.submit(self.read, path))
            if len(ahead) >= _READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    @staticmethod
    def _body(path: str, chunks: Iterable[bytes]) -> bytes:
        data = bytearray()
        for chunk in chunks:
            data += chunk
            if len(data) > _MAX_FILE_BYTES:
                raise Unreadable(f"{path} is larger than any file of a log can be ({_MAX_FILE_BYTES} bytes)")
        return bytes(data)
