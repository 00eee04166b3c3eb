"""The gateway process: reads its settings, builds its parts, serves until it is told to stop."""

from __future__ import annotations

from contextlib import AsyncExitStack

import afdp.tls.modern  # noqa: F401 - before what loads gRPC
from afdp.gateway import checking
from afdp.gateway.app import build_app
from afdp.gateway.config import GatewaySettings
from afdp.gateway.descriptors import load_api
from afdp.gateway.events import EventStreams
from afdp.gateway.log_proxy import open_log_proxy
from afdp.gateway.reporting import RefusalReports
from afdp.gateway.server import serve_http
from afdp.gateway.upstream import open_upstream
from afdp.process import run, running
from afdp.selfcheck import peers_of, port_of, self_check
from afdp.telemetry import start_telemetry
from afdp.tls.files import open_tls


async def main(settings: GatewaySettings) -> None:
    """Serves HTTP until SIGTERM or SIGINT."""
    async with AsyncExitStack() as stack:
        stack.enter_context(start_telemetry("gateway", settings))
        tls = await stack.enter_async_context(open_tls(settings))
        upstream = await stack.enter_async_context(
            open_upstream(settings.notary_address, settings.max_message_bytes, tls)
        )
        log = await stack.enter_async_context(open_log_proxy(settings, tls))
        streams = EventStreams(settings.max_event_streams)
        api = load_api()
        app = build_app(settings, api, upstream, log, tls, streams)
        await stack.enter_async_context(running(RefusalReports(api, upstream, settings.audit_interval_seconds).run()))
        await serve_http(app, settings, tls, streams.leave)


CHECK = self_check(GatewaySettings, peers_of("notary"), checking.log, port_of(checking.is_gateway))


if __name__ == "__main__":
    run(GatewaySettings, main, {"check": CHECK})
