"""Brings a Vault or OpenBao to what the signer needs: transit engine, keys, policies, and logins for two.

    VAULT_ADDR=https://vault:8200 VAULT_TOKEN=… python setup.py --auth approle --signer FOLDER --key-admin FOLDER
    VAULT_ADDR=https://vault:8200 python setup.py --state FOLDER --auth approle --signer FOLDER --key-admin FOLDER

The two are the signer (policy `afdp-signer`) and the key admin, who rotates keys (`afdp-key-admin`). Their folders get
what they log in with: `role-id` and `secret-id` (approle) or `token` (token), readable by their owner alone; kubernetes
and cert need none. Run it as often as you like: what is there stays, what is missing is made, policies are brought up
to date. `--renew` makes new credentials and ends the old ones. It prints nothing that is secret.

With VAULT_TOKEN it acts as whoever that is. Without, it looks after a server of its own: the first run initialises it
(which must be able to open itself: a seal other than Shamir's), keeps an AppRole for later runs in
STATE/operator.json and revokes the root token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hvac
import hvac.exceptions
import requests

MOUNT = "afdp-transit"
KEYS: Mapping[str, str] = {
    "afdp-notary-key": "ecdsa-p256",
    "afdp-log-key": "ed25519",
    "afdp-timestamp-key": "ecdsa-p256",
    "afdp-trust-key": "ed25519",
}
SUBJECT_NAMES = "afdp-subject-names"  # what the names of subjects' keys are made with
SIGNER, KEY_ADMIN, OPERATOR = "afdp-signer", "afdp-key-admin", "afdp-operator"
METHODS = ("approle", "kubernetes", "cert", "token")

PERIOD = "768h"  # how long a token that is handed out lives without being renewed
LOGIN = {"token_ttl": "1h", "token_max_ttl": "24h", "token_no_default_policy": True}
PATIENCE = 60.0  # seconds for the server to answer, and to open itself

POLICIES = Path(__file__).with_name("policies")


@dataclass(frozen=True)
class Logins:
    """How the signer and the key admin log in, and the folders that get what they need for it."""

    auth: str
    signer: Path | None = None
    key_admin: Path | None = None
    renew: bool = False
    kubernetes: Mapping[str, object] | None = None  # the method's own settings, as Vault names them
    service_account: str = "afdp-prod/afdp-signer"  # namespace/name
    client_ca: str = ""  # PEM

    def folders(self) -> list[tuple[str, Path]]:
        """Whose credentials are written where."""
        given = ((SIGNER, self.signer), (KEY_ADMIN, self.key_admin))
        return [(name, folder) for name, folder in given if folder is not None]


def main() -> None:
    """Reads the arguments and does what the module says."""
    arguments = parsed_arguments()
    try:
        client = connect(os.environ["VAULT_ADDR"], os.environ.get("VAULT_TOKEN", ""))
        if client.token:
            provision(client, logins_of(arguments))
        elif arguments.state:
            set_up_own(client, arguments.state, logins_of(arguments))
        else:
            raise RuntimeError("set VAULT_TOKEN, or give --state for a server that is to be looked after here")
    except (hvac.exceptions.VaultError, requests.RequestException, OSError, RuntimeError) as error:
        sys.exit("setup: " + " ".join(str(error).split()))  # Vault's own texts run over several lines


def connect(address: str, token: str = "") -> Any:
    """hvac's client (whose methods have no types), past any proxy of the environment; VAULT_CACERT is believed."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RuntimeError("VAULT_ADDR must be a URL, as https://vault.example:8200")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise RuntimeError("VAULT_ADDR is plain text to another machine: use https")
    namespace = os.environ.get("VAULT_NAMESPACE")
    client = hvac.Client(url=address, token=token, namespace=namespace, timeout=10, allow_redirects=False)
    client.session.trust_env = False
    client.session.hooks["response"].append(refuse_redirect)
    return client


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine; as `afdp.tls.plain` has it, which is not here."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_redirect(response: requests.Response, **_: object) -> None:
    """Does not follow: whoever is there would be told the token."""
    if 300 <= response.status_code < 400:
        raise RuntimeError(
            f"Vault sends us to another address (HTTP {response.status_code}); set VAULT_ADDR to that one"
        )


def provision(client: Any, logins: Logins) -> None:
    """Mount, keys, policies and logins: whatever is missing or out of date."""
    if f"{MOUNT}/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("transit", path=MOUNT)
    for name, kind in (*KEYS.items(), (SUBJECT_NAMES, "aes256-gcm96")):
        try:
            client.secrets.transit.read_key(name, mount_point=MOUNT)
        except hvac.exceptions.InvalidPath:
            client.secrets.transit.create_key(name, key_type=kind, mount_point=MOUNT)
    for name in (SIGNER, KEY_ADMIN):
        client.sys.create_or_update_acl_policy(name, policy(name))
    {"approle": use_approle, "kubernetes": use_kubernetes, "cert": use_cert, "token": use_token}[logins.auth](
        client, logins
    )


def use_approle(client: Any, logins: Logins) -> None:
    """A role for each, and a secret ID for it that does not end until it is renewed."""
    enable(client, "approle")
    for name in (SIGNER, KEY_ADMIN):
        client.write_data(f"auth/approle/role/{name}", data={"token_policies": [name], **LOGIN})
    for name, folder in logins.folders():
        role_id = client.auth.approle.read_role_id(name)["data"]["role_id"]
        secret_file = folder / "secret-id"
        write_private(folder / "role-id", role_id)
        if logins.renew or not (secret_file.exists() and is_secret_id(client, name, secret_file.read_text())):
            fresh = client.auth.approle.generate_secret_id(name)["data"]
            write_private(secret_file, fresh["secret_id"])
            if logins.renew:
                end_other_secret_ids(client, name, fresh["secret_id_accessor"])


def use_kubernetes(client: Any, logins: Logins) -> None:
    """A role for each, both for the service account that the signer's pod runs under."""
    enable(client, "kubernetes")
    if logins.kubernetes:
        client.write_data("auth/kubernetes/config", data=dict(logins.kubernetes))
    namespace, _, account = logins.service_account.partition("/")
    bound = {"bound_service_account_namespaces": [namespace], "bound_service_account_names": [account]}
    for name in (SIGNER, KEY_ADMIN):
        client.write_data(
            f"auth/kubernetes/role/{name}", data={**bound, "token_policies": [name], "audience": "vault", **LOGIN}
        )


def use_cert(client: Any, logins: Logins) -> None:
    """A role for each, for client certificates of one authority whose common name is the role's."""
    enable(client, "cert")
    for name in (SIGNER, KEY_ADMIN):
        named = {"certificate": logins.client_ca, "allowed_common_names": [name]}
        client.write_data(f"auth/cert/certs/{name}", data={**named, "token_policies": [name], **LOGIN})


def use_token(client: Any, logins: Logins) -> None:
    """An orphaned, periodic token for each, for those who have no other way."""
    for name, folder in logins.folders():
        role = {"allowed_policies": [name], "orphan": True, "token_period": PERIOD}
        client.write_data(f"auth/token/roles/{name}", data={**role, "token_no_default_policy": True})
        file = folder / "token"
        old = file.read_text() if file.exists() else ""
        if old and not logins.renew and is_renewed(client, old):
            continue
        answer = client.auth.token.create(role_name=name, policies=[name], no_default_policy=True)
        write_private(file, answer["auth"]["client_token"])
        with contextlib.suppress(hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):  # it is over already
            if old:
                client.auth.token.revoke(old)


def enable(client: Any, method: str) -> None:
    """Mounts a method under its own name."""
    if f"{method}/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method(method)


def is_secret_id(client: Any, role: str, secret_id: str) -> bool:
    """Whether it still lets somebody in."""
    answer = client.write_data(f"auth/approle/role/{role}/secret-id/lookup", data={"secret_id": secret_id})
    return isinstance(answer, dict)  # a response without content says that there is none


def end_other_secret_ids(client: Any, role: str, kept: str) -> None:
    """Destroys those of a role that are not the one with this accessor."""
    for accessor in client.auth.approle.list_secret_id_accessors(role)["data"]["keys"]:
        if accessor != kept:
            client.auth.approle.destroy_secret_id_accessor(role, accessor)


def is_renewed(client: Any, token: str) -> bool:
    """Whether the token holds, and for a whole period from now."""
    try:
        client.auth.token.renew(token)
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
        return False
    return True


def policy(name: str) -> str:
    """A policy's text."""
    return (POLICIES / f"{name.removeprefix('afdp-')}.hcl").read_text()


# A server of our own


def set_up_own(client: Any, state: Path, logins: Logins) -> None:
    """Initialises it where need be, and provisions it as the operator.

    Raises:
        TimeoutError: the server does not answer, or stays sealed.
        RuntimeError: it was initialised by somebody else.
    """
    wait_for(client, lambda: client.sys.is_initialized() is not None, "does not answer")
    if not client.sys.is_initialized():
        answer = client.sys.initialize(recovery_shares=1, recovery_threshold=1)
        write_private(root_file(state), answer["root_token"])
    wait_until_open(client)
    if root_file(state).exists():
        make_operator(client, state)
    if not operator_file(state).exists():
        raise RuntimeError(f"the server is initialised, and {operator_file(state)} is not there to let us in")
    with operating(client, json.loads(operator_file(state).read_text())):
        provision(client, logins)


@contextlib.contextmanager
def operating(client: Any, credentials: Mapping[str, str], more: str = "") -> Iterator[None]:
    """Logged in as the operator, whose policy, with `more`, is made what it is today; the token ends with the block."""
    client.auth.approle.login(**credentials)
    try:
        try:
            client.sys.create_or_update_acl_policy(OPERATOR, policy(OPERATOR) + more)
        except hvac.exceptions.Forbidden:
            lift(client)
        yield
    finally:
        client.auth.token.revoke_self()


def lift(client: Any) -> None:
    """Gives an operator of the first release the policy of today.

    It could write the signer's policy and make tokens of it, but not write its own: a token of the signer, to whom that
    right is lent for a moment, does it. `provision` then writes the signer's policy as it shall be.
    """
    client.sys.create_or_update_acl_policy(SIGNER, policy(OPERATOR))
    lent = client.auth.token.create(role_name=SIGNER, policies=[SIGNER], no_default_policy=True)["auth"]["client_token"]
    own, client.token = client.token, lent
    try:
        client.sys.create_or_update_acl_policy(OPERATOR, policy(OPERATOR))
    finally:
        client.auth.token.revoke_self()
        client.token = own


def make_operator(client: Any, state: Path) -> None:
    """Makes the AppRole with the root token, and ends that token. Cut short, it is finished by the next run."""
    client.token = root_file(state).read_text()
    if not operator_file(state).exists():
        write_private(operator_file(state), json.dumps(new_operator(client)))
    with contextlib.suppress(hvac.exceptions.Forbidden):  # it was revoked already
        client.auth.token.revoke_self()
    root_file(state).unlink()


def new_operator(client: Any, more: str = "") -> dict[str, str]:
    """The role and secret that log it in; `more` is added to its policy."""
    client.sys.create_or_update_acl_policy(OPERATOR, policy(OPERATOR) + more)
    enable(client, "approle")
    role = {"token_policies": [OPERATOR], "token_no_default_policy": True, "token_ttl": "10m", "token_max_ttl": "1h"}
    client.write_data(f"auth/approle/role/{OPERATOR}", data=role)
    role_id = client.auth.approle.read_role_id(OPERATOR)["data"]["role_id"]
    secret_id = client.auth.approle.generate_secret_id(OPERATOR)["data"]["secret_id"]
    return {"role_id": role_id, "secret_id": secret_id}


def wait_until_open(client: Any) -> None:
    """Returns once the server is unsealed and the active one, which after its initialisation takes a moment."""
    wait_for(
        client,
        lambda: bool(client.sys.read_health_status().status_code == requests.codes.ok),
        "stays sealed: only a seal that opens itself will do here",
    )


def wait_for(client: Any, ready: Callable[[], bool], otherwise: str) -> None:
    """Asks until the answer is yes.

    Raises:
        TimeoutError: it is not in time.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(hvac.exceptions.VaultDown, requests.ConnectionError):
            if ready():
                return
        time.sleep(0.2)
    raise TimeoutError(f"{client.url} {otherwise}")


def root_file(state: Path) -> Path:
    """Holds the root token from the initialisation until the operator is made, and never again."""
    return state / "root-token"


def operator_file(state: Path) -> Path:
    """How later runs log in."""
    return state / "operator.json"


def write_private(path: Path, content: str) -> None:
    """A file that only its owner may read, whole or not at all; one that has this content is left alone."""
    if path.exists() and path.read_text() == content:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


# Arguments


def parsed_arguments() -> argparse.Namespace:
    """What is on the command line."""
    parser = argparse.ArgumentParser(description="Prepares a Vault or OpenBao for the signer.")
    parser.add_argument("--auth", choices=METHODS, default="approle", help="how the two log in")
    parser.add_argument("--signer", type=Path, metavar="FOLDER", help="gets what the signer logs in with")
    parser.add_argument("--key-admin", type=Path, metavar="FOLDER", help="gets what the key admin logs in with")
    parser.add_argument("--renew", action="store_true", help="make new credentials and end the old ones")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="of a server that is looked after here")
    parser.add_argument("--kubernetes-host", metavar="URL", help="of the cluster's API, as Vault reaches it")
    parser.add_argument("--kubernetes-ca", type=Path, metavar="FILE", help="the API's authority, PEM")
    parser.add_argument("--reviewer-token", type=Path, metavar="FILE", help="of an account that may review tokens")
    parser.add_argument("--service-account", metavar="NAMESPACE/NAME", default=Logins.service_account)
    parser.add_argument("--client-ca", type=Path, metavar="FILE", help="cert: the authority of their certificates, PEM")
    arguments = parser.parse_args()
    if arguments.auth in ("approle", "token") and not (arguments.signer or arguments.key_admin):
        parser.error(f"--auth {arguments.auth} needs --signer or --key-admin, a folder to write to")
    if arguments.auth == "cert" and not arguments.client_ca:
        parser.error("--auth cert needs --client-ca")
    return arguments


def logins_of(arguments: argparse.Namespace) -> Logins:
    """The arguments as values."""
    kubernetes = {
        "kubernetes_host": arguments.kubernetes_host,
        "kubernetes_ca_cert": arguments.kubernetes_ca and arguments.kubernetes_ca.read_text(),
        "token_reviewer_jwt": arguments.reviewer_token and arguments.reviewer_token.read_text().strip(),
    }
    if arguments.kubernetes_ca:  # Vault runs elsewhere: it has no account of its own in the cluster
        kubernetes["disable_local_ca_jwt"] = True
    return Logins(
        auth=arguments.auth,
        signer=arguments.signer,
        key_admin=arguments.key_admin,
        renew=arguments.renew,
        kubernetes={name: value for name, value in kubernetes.items() if value},
        service_account=arguments.service_account,
        client_ca=arguments.client_ca.read_text() if arguments.client_ca else "",
    )


if __name__ == "__main__":
    main()
