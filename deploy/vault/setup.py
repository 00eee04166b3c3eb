"""Brings a Vault or OpenBao to what the signer needs: the transit engine, its two keys, a policy, a token in a file.

    VAULT_ADDR=http://vault:8200 python setup.py STATE_FOLDER TOKEN_FILE

Run it as often as you like: what is there stays, what is missing is made, and the signer's token is renewed or, where
it no longer holds, replaced. The first run initialises the server, which must be able to open itself (a seal other than
Shamir's), keeps an AppRole for later ones in STATE_FOLDER/operator.json and revokes the root token. It prints nothing
that is secret.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import requests

MOUNT = "afdp-transit"
KEYS: Mapping[str, str] = {"afdp-notary-key": "ecdsa-p256", "afdp-log-key": "ed25519"}
SIGNER = "afdp-signer"
OPERATOR = "afdp-operator"

PERIOD = "768h"  # how long the signer's token lives without being renewed
PATIENCE = 60.0  # seconds for the server to answer, and to open itself

POLICIES = Path(__file__).parent


def set_up(address: str, state: Path, token_file: Path) -> None:
    """Does what the module says.

    Raises:
        TimeoutError: the server does not answer, or stays sealed.
        RuntimeError: it was initialised by somebody else, or must be opened by hand.
    """
    client: Any = hvac.Client(url=address, token="", timeout=10)
    client.session.trust_env = False  # no proxy of the environment between us and the keys
    wait_for(client, lambda: client.sys.is_initialized() is not None, "does not answer")
    if not client.sys.is_initialized():
        answer = client.sys.initialize(recovery_shares=1, recovery_threshold=1)
        write_private(root_file(state), answer["root_token"])
    wait_until_open(client)
    if root_file(state).exists():
        make_operator(client, state)
    if not operator_file(state).exists():
        raise RuntimeError(f"the server is initialised, and {operator_file(state)} is not there to let us in")
    client.auth.approle.login(**json.loads(operator_file(state).read_text()))
    try:
        provision(client, token_file)
    finally:
        client.auth.token.revoke_self()


def make_operator(client: Any, state: Path) -> None:
    """Makes the AppRole with the root token, and ends that token. Cut short, it is finished by the next run."""
    client.token = root_file(state).read_text()
    if not operator_file(state).exists():
        write_private(operator_file(state), json.dumps(new_operator(client)))
    with contextlib.suppress(hvac.exceptions.Forbidden):  # it was revoked already
        client.auth.token.revoke_self()
    root_file(state).unlink()


def new_operator(client: Any) -> dict[str, str]:
    """The role and secret that log it in."""
    client.sys.create_or_update_acl_policy(OPERATOR, (POLICIES / "operator.hcl").read_text())
    if "approle/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")
    minutes = {"token_ttl": "10m", "token_max_ttl": "1h"}
    client.auth.approle.create_or_update_approle(
        OPERATOR, token_policies=[OPERATOR], token_no_default_policy=True, **minutes
    )
    role = client.auth.approle.read_role_id(OPERATOR)["data"]["role_id"]
    secret = client.auth.approle.generate_secret_id(OPERATOR)["data"]["secret_id"]
    return {"role_id": role, "secret_id": secret}


def provision(client: Any, token_file: Path) -> None:
    """Mount, keys, the signer's policy and its token."""
    if f"{MOUNT}/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("transit", path=MOUNT)
    for name, kind in KEYS.items():
        try:
            client.secrets.transit.read_key(name, mount_point=MOUNT)
        except hvac.exceptions.InvalidPath:
            client.secrets.transit.create_key(name, key_type=kind, mount_point=MOUNT)
    client.sys.create_or_update_acl_policy(SIGNER, (POLICIES / "signer.hcl").read_text())
    if token_file.exists() and is_renewed(client, token_file.read_text()):
        return
    client.auth.token.create_or_update_role(SIGNER, [SIGNER], orphan=True, token_period=PERIOD)
    answer = client.auth.token.create(role_name=SIGNER, policies=[SIGNER], no_default_policy=True)
    write_private(token_file, answer["auth"]["client_token"])


def is_renewed(client: Any, token: str) -> bool:
    """Whether the token holds, and for a whole period from now."""
    try:
        client.auth.token.renew(token)
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidRequest):
        return False
    return True


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
    """A file that only its owner may read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


if __name__ == "__main__":
    try:
        set_up(os.environ["VAULT_ADDR"], Path(sys.argv[1]), Path(sys.argv[2]))
    except (hvac.exceptions.VaultError, requests.RequestException, OSError, RuntimeError) as error:
        sys.exit("setup: " + " ".join(str(error).split()))  # Vault's own texts run over several lines
