"""`afdp`: notarise evidence, verify receipts, look after a notary.

Exit: 0 good · 1 what was checked is not good · 2 usage, or input that cannot be read · 3 not reachable.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from afdp.cli.options import file_option, json_option, url_option


class LazyGroup(click.Group):
    """A group whose commands are named with their help, and imported only when they run."""

    def __init__(self, *, lazy: dict[str, tuple[str, str]], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]  # click's own keyword arguments, passed on
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table, which is that of use."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command."""
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("afdp"):
                raise
            raise click.ClickException(
                f"{cmd_name} needs {error.name}, which an extra of afdp-notary brings"
            ) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


def group(name: str, text: str, **lazy: tuple[str, str]) -> LazyGroup:
    """A group of commands below another."""
    return LazyGroup(name=name, help=text, short_help=text, lazy=lazy)


trust = group(
    "trust",
    "The keys that a verifier believes.",
    export=("afdp.cli.trust:export", "Write the notary's trust root into a folder."),
    update=("afdp.cli.update:update", "Follow the repository of a trust root: verify what is newer, and take it."),
    init=("afdp.cli.ceremony:init", "Begin a repository: offline keys, and the first metadata that they sign."),
    sign=("afdp.cli.ceremony:sign", "Sign what waits: revocations, logs, keys, a later expiry."),
    publish=("afdp.cli.ceremony:publish", "Hand the notary what was signed, and fetch what was signed elsewhere."),
)
keys = group(
    "keys",
    "The keys that sign.",
    list=("afdp.cli.keys:list_keys", "List every version of every key."),
    rotate=("afdp.cli.keys:rotate", "Make a new version of a key, which signs from now on."),
    revoke=("afdp.cli.keys:revoke", "Record that a key version is not to be trusted any more."),
    affected=("afdp.cli.affected:affected", "List every receipt that a key version signed."),
)
prove = group(
    "prove",
    "Prove what is in a log, as files that are verified offline.",
    inclusion=("afdp.cli.log_prove:inclusion", "Prove that an entry is in a log."),
    consistency=("afdp.cli.log_prove:consistency", "Prove that a log's newer tree goes on from its older one."),
    completeness=("afdp.cli.log_prove:completeness", "Prove that these are all entries between two checkpoints."),
)
log = group(
    "log",
    "Transparency logs.",
    fsck=("afdp.cli.log_fsck:fsck", "Recompute a whole log from its entries and name the first bad byte."),
    follow=("afdp.cli.log_follow:follow", "Watch a log: that it only grows, and what it is given."),
    prove=(f"{__name__}:prove", "Prove what is in a log: inclusion, consistency, completeness."),
    **{"verify-proof": ("afdp.cli.log_prove:verify_proof", "Verify what `afdp log prove` wrote, offline.")},
    list=("afdp.cli.logs:list_logs", "List every log of the deployment."),
    open=("afdp.cli.logs:open_log", "Open a log: of a tenant's own, or one that goes on from another."),
    freeze=("afdp.cli.logs:freeze", "Freeze a log for ever: it takes no entries any more."),
)
witness = group(
    "witness",
    "A witness of transparency logs, which anyone can run for any log.",
    init=("afdp.cli.witness:init", "Make a witness: a key, an empty memory, a configuration."),
    run=("afdp.cli.witness:run", "Cosign what the logs send, until Ctrl-C."),
    vkey=("afdp.cli.witness:vkey", "Print a witness's key."),
)
policy = group(
    "policy",
    "Who may do what.",
    test=("afdp.cli.policy:test", "Test policies with a table of cases."),
    explain=("afdp.cli.policy:explain", "Say why policies allow or deny something."),
)
certs = group(
    "certs",
    "Certificates for TLS, from an authority of your own.",
    init=("afdp.cli.certs:init", "Make an authority, and the certificates of a deployment."),
    issue=("afdp.cli.certs:issue", "Issue a certificate for a server or a client."),
    renew=("afdp.cli.certs:renew", "Renew certificates, or all that end soon; and the revocation list."),
    revoke=("afdp.cli.certs:revoke", "Put a certificate on the revocation list."),
    inspect=("afdp.cli.certs:inspect", "Show what a certificate or a revocation list says."),
)
holds = group(
    "holds",
    "Legal holds: records that must stay.",
    place=("afdp.cli.holds:place", "Place a hold: what it names stays until it is released."),
    release=("afdp.cli.holds:release", "End a hold."),
    list=("afdp.cli.holds:list_holds", "List the holds of your tenant."),
)
subjects = group(
    "subjects",
    "Subjects, and their erasure.",
    erase=("afdp.cli.subjects:erase", "Erase a subject: nobody can read its records any more."),
    list=("afdp.cli.subjects:list_erasures", "List erasures that were asked for."),
)
retention = group(
    "retention",
    "How long records are kept.",
    run=("afdp.cli.holds:run", "Let go what is past its retention, or say what would go."),
)
audit = group(
    "audit",
    "The audit trail.",
    list=("afdp.cli.audit:list_events", "List what is on record of your tenant's calls."),
    export=("afdp.cli.audit:export", "Write rows and seals into a folder, to be verified offline."),
    verify=("afdp.cli.audit:verify", "Show that nothing of the audit trail was changed, or name what was."),
)
config = group(
    "config",
    "Settings.",
    show=("afdp.cli.config:show", "Print a service's effective settings, secrets masked."),
)

COMMANDS = {
    "sign": ("afdp.cli.sign:sign", "Notarise files or an evidence package."),
    "verify": ("afdp.cli.verify:verify", "Verify receipts, offline."),
    "search": ("afdp.cli.search:search", "Find evidence."),
    "history": ("afdp.cli.search:history", "Tell all that happened to an artifact."),
    "export": ("afdp.cli.export:export", "Export evidence with its receipts, or the proof of one."),
    "watch": ("afdp.cli.watch:watch", "Watch receipts as they are made or upgraded."),
    "timestamp": ("afdp.cli.timestamp:timestamp", "Have the notary's time-stamping authority stamp a file."),
    "trust": (f"{__name__}:trust", "The keys that a verifier believes: export, update, init, sign, publish."),
    "keys": (f"{__name__}:keys", "The keys that sign: list, rotate, revoke, affected."),
    "log": (f"{__name__}:log", "Transparency logs: fsck, follow, prove, list, open, freeze."),
    "witness": (f"{__name__}:witness", "A witness of transparency logs: init, run, vkey."),
    "login": ("afdp.cli.login:login", "Log in at an identity provider, for one notary."),
    "logout": ("afdp.cli.login:logout", "Forget the login for a notary."),
    "whoami": ("afdp.cli.login:whoami", "Show the login for a notary."),
    "certs": (f"{__name__}:certs", "Certificates for TLS: init, issue, renew, revoke, inspect."),
    "dev": ("afdp.cli.dev:dev", "Run the whole stack on this machine."),
    "audit": (f"{__name__}:audit", "The audit trail: list, export, verify."),
    "holds": (f"{__name__}:holds", "Legal holds: place, release, list."),
    "subjects": (f"{__name__}:subjects", "Erasure of subjects: erase, list."),
    "retention": (f"{__name__}:retention", "How long records are kept: run."),
    "reconcile": ("afdp.cli.reconcile:reconcile", "Show that every record has its log entry, and the reverse."),
    "doctor": ("afdp.cli.doctor:doctor", "Check a stack, running or not, and say what to do."),
    "policy": (f"{__name__}:policy", "Who may do what: test, explain."),
    "config": (f"{__name__}:config", "Settings: show."),
}


def _print_version(ctx: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from afdp.version import VERSION  # looks into the installed distribution: only when asked

        click.echo(f"afdp {VERSION}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    help="Evidence in, receipts out that anyone can verify offline.",
    epilog="Exit: 0 good · 1 what was checked is not good · 2 usage, or input that cannot be read · 3 not reachable.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@url_option
@json_option
@file_option("--ca", "AFDP_CA", "Authorities of the notary's certificate.")
@file_option("--client-cert", "AFDP_CLIENT_CERT", "The certificate to show.")
@file_option("--client-key", "AFDP_CLIENT_KEY", "Its key.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli(url: str, as_json: bool) -> None:
    """The root; commands read `--url` and `--json` here where they were not given them themselves."""


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a tick shows a question mark
    cli(prog_name="afdp")


if __name__ == "__main__":
    main()
