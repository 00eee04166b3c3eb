"""`afdp dev`: the whole stack on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from afdp.embedded.stack import StackOptions


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".afdp"),
    show_default=True,
    help="Keeps all data; a second start on it finds everything again.",
)
@click.option("--port-offset", type=click.IntRange(0, 15_481), default=0, help="Added to every port.")
@click.option("--vault", is_flag=True, help="Keep the keys in OpenBao, started beside the services.")
@click.option("--witness", is_flag=True, help="Run a witness beside the services, which cosigns the log's checkpoints.")
@click.option("--tls", is_flag=True, help="TLS on every port, with certificates from an authority in DATA_DIR/tls.")
@click.option("--redis", is_flag=True, help="Count calls and keep copies of records in a Redis, started beside.")
def dev(data_dir: Path, port_offset: int, vault: bool, witness: bool, tls: bool, redis: bool) -> None:
    """Run the five services, PostgreSQL and, with --vault, OpenBao on loopback.

    Prints `ready URL` once it can notarise. Ctrl-C stops everything. Without --tls authentication is off and nothing is
    encrypted on the wire, which is why it listens on loopback only. The trust root is signed with keys in
    DATA_DIR/trust, so that `afdp trust update` works here too; production keeps such keys where no network reaches. A
    witness proves something only where somebody else runs it: that of --witness shows how it works.
    """
    # Started here and not at the top: `afdp verify` must not pay for it.
    from afdp.embedded.stack import StackOptions
    from afdp.errors import NotaryError

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        asyncio.run(_run(StackOptions(data_dir, port_offset, vault=vault, witness=witness, tls=tls, redis=redis)))
    except NotaryError as error:
        raise click.ClickException(str(error)) from None


async def _run(options: StackOptions) -> None:
    from afdp.embedded.certificates import how_to_call
    from afdp.embedded.process import LOOPBACK
    from afdp.embedded.signed_trust import sign_trust_root
    from afdp.embedded.stack import running_stack

    # Explicit, because a background job of a shell inherits SIGINT as ignored.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: task and task.cancel())
    try:
        async with running_stack(options) as stack:
            click.echo(f"ready {stack.url}")
            if options.tls:
                click.echo(how_to_call(stack.certificates, stack.url, f"{LOOPBACK}:{stack.port('notary')}"))
            await sign_trust_root(stack)  # after `ready`: nobody has to wait for it
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        return
