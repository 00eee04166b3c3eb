"""The segments of a log that is checked, by as many processes as there are processors; each fetches its own files."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial

from afdp.errors import Unavailable
from afdp.monitor.source import Reading, open_source
from afdp.verify.fsck import Segment, SegmentResult, check_segment
from afdp.verify.tile_files import TileSource

_source: TileSource
_opened = ExitStack()
"""Of this process, once `_open` has run in it; it ends with the process."""


def in_processes(source: str, reading: Reading, jobs: int, segments: Iterable[Segment]) -> Iterator[SegmentResult]:
    """Checks segments side by side; gives what was found in their order, however they end.

    Raises:
        Unavailable: the log cannot be reached any more.
    """
    # Not forked: a fork would copy the threads' locks, and none of the threads.
    context = multiprocessing.get_context("spawn")
    ahead: deque[Future[SegmentResult]] = deque()
    with ProcessPoolExecutor(jobs, context, _open, (source, reading)) as pool:
        try:
            for segment in segments:
                ahead.append(pool.submit(_check, segment))
                if len(ahead) > 2 * jobs:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise Unavailable("a process that read the log has ended before it was done; try fewer --jobs") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_this_process(source: TileSource, segments: Iterable[Segment]) -> Iterator[SegmentResult]:
    """Checks segments one after the other."""
    return map(partial(check_segment, source), segments)


def _open(source: str, reading: Reading) -> None:
    global _source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that asks
    _source = _opened.enter_context(open_source(source, reading))


def _check(segment: Segment) -> SegmentResult:
    return check_segment(_source, segment)
