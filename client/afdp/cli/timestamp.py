"""`afdp timestamp`: the time, signed, over a file (RFC 3161)."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from afdp.cli.connection import Refused, open_notary
from afdp.cli.files import hash_files, write_whole
from afdp.cli.options import json_option, url_option
from afdp.cli.output import say, say_json
from afdp.formats.rfc3161 import Imprint, Info, Query, query_der, read_response, read_token
from afdp.formats.timestamps import format_timestamp


@click.command(short_help="Have the notary's time-stamping authority stamp a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE.tsr", help="[default: FILE.tsr]")
@url_option
@json_option
def timestamp(file: Path, output: Path | None, url: str, as_json: bool) -> None:
    """Have the notary's time-stamping authority stamp a file, and keep its response (RFC 3161).

    The file is hashed here; only its SHA-256 is sent. Any tool that knows RFC 3161 verifies the response with the
    authority's certificates, such as `openssl ts -verify`; `afdp trust export` has them in tsa.pem.
    """
    target = output or file.with_name(f"{file.name}.tsr")
    digest = hash_files([file])[file]
    query = Query(Imprint(bytes.fromhex(digest)), nonce=secrets.randbits(64) | 1, wants_certificate=True)
    with open_notary(url) as notary:
        response = notary.timestamp(query_der(query))
    info = _granted(response, query)
    write_whole(target, response)
    time, serial = format_timestamp(info.time), f"{info.serial:x}"
    if as_json:
        said = {"file": str(file), "sha256": digest, "time": time, "policy": info.policy, "serial": serial}
        say_json({**said, "accuracy_seconds": info.accuracy and info.accuracy.total_seconds(), "response": str(target)})
        return
    accuracy = f", ±{info.accuracy.total_seconds():g} s" if info.accuracy else ", of no stated accuracy"
    say(f"  file         {file}  sha256 {digest}")
    say(f"  time         {time}{accuracy}")
    say(f"  policy       {info.policy}")
    say(f"  response     {target}")
    say("STAMPED", fg="green", bold=True)


def _granted(response: bytes, query: Query) -> Info:
    """What the authority states, if it is over this query."""
    try:
        answer = read_response(response)
        if answer.token is None:
            raise Refused(f"the authority refuses: {answer.reason or f'status {answer.status}'}")
        info = read_token(answer.token).info
    except ValueError as error:
        raise Refused(f"the authority's response cannot be used: it {error}") from error
    if (info.imprint, info.nonce) != (query.imprint, query.nonce):
        raise Refused("the authority's response is over something else than was asked")
    return info
