"""What access costs: notarising over REST with a token, authorised and on record, beside notarising with it all off.

Two stacks alternate in one run. The token is verified, held against the built-in policies, and each decision is a line
of the audit log, as in production; the issuer's keys are in a file.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from joserfc import jws
from joserfc.jwk import ECKey

from afdp.embedded.stack import Stack, StackOptions, running_stack
from bench.figures import Figure, Run, median_figure
from bench.rest_load import run_rest
from bench.stack import trust_of

PORT_OFFSET = 2000
_ISSUER = "https://issuer.bench.example"


async def measure_access(folder: Path, seconds: float, rounds: int, concurrency: int) -> list[Figure]:
    """`rest_sign_N_auth` with its ratio to the same without."""
    open_, guarded = list[Run](), list[Run]()
    async with (
        running_stack(StackOptions(_opened(folder / "off") / "stack", port_offset=1000, vault=True)) as off,
        running_guarded(folder / "required") as (required, token),
    ):
        trusts = await trust_of(off.url), await trust_of(required.url)
        for length, kept in [(min(3.0, seconds), False), *[(seconds, True)] * rounds]:
            runs = (
                await run_rest(off.url, "sign", length, concurrency, trusts[0]),
                await run_rest(required.url, "sign", length, concurrency, trusts[1], token=token),
            )
            if kept:
                open_.append(runs[0])
                guarded.append(runs[1])
    return [median_figure(f"rest_sign_{concurrency}_auth", guarded, (f"rest_sign_{concurrency}", open_))]


@asynccontextmanager
async def running_guarded(folder: Path) -> AsyncIterator[tuple[Stack, str]]:
    """A stack with `AFDP_AUTH=required`, and the token of an engineer whom it believes."""
    key = ECKey.generate_key("P-256")
    identity = _identity(_opened(folder), key)
    settings = {"notary": {"AFDP_AUTH": "required", "AFDP_IDENTITY": str(identity)}}
    options = StackOptions(folder / "stack", port_offset=PORT_OFFSET, vault=True, settings=settings)
    async with running_stack(options) as stack:
        yield stack, _token(key)


def _opened(folder: Path) -> Path:
    """A new folder that a server under another account may walk through."""
    folder.mkdir(parents=True)
    for each in (folder, folder.parent):
        each.chmod(0o711)
    return folder


def _identity(folder: Path, key: ECKey) -> Path:
    """The settings of one issuer with this key."""
    published = {**key.as_dict(private=False), "kid": "1", "use": "sig"}
    (folder / "keys.json").write_text(json.dumps({"keys": [published]}))
    issuer = {
        "issuer": _ISSUER,
        "audiences": ["afdp-notary"],
        "keys": {"file": str(folder / "keys.json")},
        "roles": {"claims": ["roles"]},
        "tenant": {"value": "default"},
    }
    (folder / "identity.yaml").write_text(json.dumps({"issuers": [issuer]}))  # JSON is YAML too
    return folder / "identity.yaml"


def _token(key: ECKey) -> str:
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": "afdp-notary", "sub": "bench", "iat": now, "exp": now + 3600}
    granted = {"roles": ["ai_engineer"], "scope": "afdp.notary.read afdp.notary.write"}
    return jws.serialize_compact({"alg": "ES256", "kid": "1", "typ": "JWT"}, json.dumps(claims | granted), key)
