"""Talking to the notary from a command: one client, and errors as messages with the exit status they deserve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from afdp.cli.options import NOT_GOOD, Unreachable, Unreadable
from afdp.cli.output import reasons
from afdp.client import NotaryClient
from afdp.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotaryError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)


class Refused(click.ClickException):
    """Ends the process: the notary was asked and said no."""

    exit_code = NOT_GOOD


@contextmanager
def open_notary(url: str, *, hint: str = "") -> Iterator[NotaryClient]:
    """A client of the notary at a URL; what it raises ends the process.

    Args:
        url: the notary's base URL.
        hint: what to do about an answer that did not come.
    """
    with reported(hint), NotaryClient(url) as notary:
        yield notary


@contextmanager
def reported(hint: str = "") -> Iterator[None]:
    """What is raised of our errors ends the process."""
    try:
        yield
    except NotaryError as error:
        request_id = error.metadata.get("request_id")
        message = reasons(error) + (f" (request {request_id})" if request_id else "")
        raise _ending(error, message, hint) from error


def _ending(error: NotaryError, message: str, hint: str) -> click.ClickException:
    match error:
        case InvalidArgument() | Unimplemented():
            return Unreadable(message)
        case Unavailable() | DeadlineExceeded() | ResourceExhausted() | Cancelled():
            return Unreachable(f"{message}{'. ' if hint else ''}{hint}")
        case _:
            return Refused(message)
