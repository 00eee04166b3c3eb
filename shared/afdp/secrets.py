"""Secrets that are settings: given as they are, as a file, or as a place in Vault.

A setting that is a secret, such as `AFDP_REDIS_URL`, is given

    AFDP_REDIS_URL=redis://…                      as it is,
    AFDP_REDIS_URL_FILE=/run/secrets/redis        in a file that not everybody may read, or
    AFDP_REDIS_URL=vault:secret/afdp/redis#url    as the field `url` of what lies at `afdp/redis` in Vault's KV engine,
                                                  version 2, at `secret`; logged in as the settings AFDP_VAULT_… say.

In a YAML file it is the same with `redis_url` and `redis_url_file`. No message quotes a secret, nor what a reference
that is wrong may have been meant as.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_MOST_BYTES = 64 * 1024
_VAULT = "vault:"
_REFERENCE = re.compile(r"vault:([A-Za-z0-9_.-]+)/([A-Za-z0-9_./-]+)#([A-Za-z0-9_.-]+)")
_FILE = "_file"


ReadVault = Callable[[str, str, str], str]
"""The text at a mount, a path and a field. Blocks, and raises SecretError."""


class SecretError(Exception):
    """A secret cannot be had: why, and in no word what it is."""


class FollowedSecret(SecretStr):
    """A secret that is kept elsewhere, where it may change."""

    def __init__(self, value: str, fetch: Callable[[], str]) -> None:
        super().__init__(value)
        self._fetch = fetch

    def renew(self) -> None:
        """As the function of that name."""
        self._secret_value = self._fetch()


def renew(secret: SecretStr) -> None:
    """Looks again at a secret, if it is kept elsewhere. Blocks.

    Raises:
        SecretError: it cannot be had now; it stays what it was.
    """
    if isinstance(secret, FollowedSecret):
        secret.renew()


def secret_names(fields: Mapping[str, FieldInfo]) -> frozenset[str]:
    """The settings that are secrets and may be kept elsewhere; not how Vault itself is logged in to."""
    return frozenset(
        name for name, field in fields.items() if _is_secret(field.annotation) and field.validation_alias is None
    )


def file_names(fields: Mapping[str, FieldInfo]) -> frozenset[str]:
    """The names that say in which file a secret is, but for those that are settings by themselves."""
    return frozenset(name + _FILE for name in secret_names(fields)) - fields.keys()


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def resolved(
    fields: Mapping[str, FieldInfo], levels: list[Mapping[str, Any]], vault: Callable[[], ReadVault | None]
) -> dict[str, SecretStr]:
    """The secrets that are kept elsewhere, fetched.

    Args:
        fields: of the settings.
        levels: what is given, the first winning: values by setting, files by its name and `_file`.
        vault: what reads secrets out of Vault; None where this service has no settings for that.

    Raises:
        SecretError: begins with the setting's name as it stands in the environment.
    """
    found: dict[str, SecretStr] = {}
    files = file_names(fields)
    for name in sorted(secret_names(fields)):
        file = name + _FILE if name + _FILE in files else ""
        level = next((level for level in levels if name in level or file in level), {})
        if name in level and file in level:
            raise SecretError(f"{_shown(name)}: is given twice, also as {_shown(file)}")
        if file in level:
            found[name] = _followed(file, _file_reader(level[file]))
        elif isinstance(value := level.get(name), str) and value.startswith(_VAULT):
            found[name] = _followed(name, _vault_reader(value, vault))
    return found


def _followed(name: str, fetch: Callable[[], str]) -> FollowedSecret:
    def named() -> str:
        try:
            return fetch()
        except SecretError as error:
            raise SecretError(f"{_shown(name)}: {error}") from None

    return FollowedSecret(named(), named)


def _shown(name: str) -> str:
    return "AFDP_" + name.upper()


def _file_reader(given: object) -> Callable[[], str]:
    return lambda: secret_in(Path(str(given)))


def secret_in(path: Path) -> str:
    """The text in a file that not everybody may read, without the ends of lines after it. Blocks.

    Raises:
        SecretError: there is none.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_mode & stat.S_IROTH:
                raise SecretError(f"{path} can be read by everybody; take that away (chmod o-r)")
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SecretError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise SecretError(f"{path} is over {_MOST_BYTES} bytes")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8") from None
    if not text:
        raise SecretError(f"{path} is empty")
    return text


def _vault_reader(reference: str, vault: Callable[[], ReadVault | None]) -> Callable[[], str]:
    def read() -> str:
        parts = _REFERENCE.fullmatch(reference)
        if parts is None or ".." in parts[2].split("/"):
            raise SecretError("is no reference to Vault: vault:MOUNT/PATH#FIELD")
        reader = vault()
        if reader is None:
            raise SecretError("this service takes no secrets from Vault; give a file")
        return reader(parts[1], parts[2], parts[3])

    return read
