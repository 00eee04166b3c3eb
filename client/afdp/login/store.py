"""What `afdp login` keeps: a file for each notary, which its owner alone can read."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import orjson

from afdp.errors import InvalidArgument, Unauthenticated
from afdp.formats.members import Members
from afdp.login.provider import LoginProvider, Tokens

_EARLY = 30.0  # seconds before its end that a token is replaced


@dataclass(frozen=True, slots=True)
class Login:
    """A login, for one notary: its tokens are shown to that one only.

    Attributes:
        url: the notary's.
        issuer, client_id: where, and as which client.
        scope: what was asked for.
        tokens: what was given.
        secret_file: of a client that logs in by itself; empty: a person did.
        ca_file: the authorities of the issuer's certificate; empty: the system's.
    """

    url: str
    issuer: str
    client_id: str
    scope: str
    tokens: Tokens
    secret_file: str = ""
    ca_file: str = ""

    @property
    def due(self) -> bool:
        """Whether its token ends now, or soon."""
        return time.time() > self.tokens.expires_at - _EARLY

    def renewed(self) -> Login:
        """The same with a token that is good.

        Raises:
            NotaryError: the provider is away; or the login has ended.
        """
        with LoginProvider(self.issuer, self.client_id, Path(self.ca_file) if self.ca_file else None) as provider:
            if self.secret_file:
                tokens = provider.client_tokens(read_secret(Path(self.secret_file)), self.scope)
            elif self.tokens.refresh_token:
                tokens = provider.refreshed(self.tokens.refresh_token)
            else:
                raise Unauthenticated("the login has ended; do `afdp login` again")
        return replace(self, tokens=tokens)


class LoginFile:
    """Where the login for a notary is kept. Calling it gives a token that is good: a new one where that is due."""

    def __init__(self, url: str, folder: Path | None = None) -> None:
        """Raises InvalidArgument: no folder is given, and the user has none."""
        self._url = url.rstrip("/")
        self._folder = folder or config_folder() / "logins"
        self._file = self._folder / f"{sha256(self._url.encode()).hexdigest()[:32]}.json"
        self._login: Login | None = None

    def __call__(self) -> str:
        """A token.

        Raises:
            Unauthenticated: the login has ended, or there is none.
            Unavailable: the provider is away.
        """
        if self._login is None or self._login.due:
            self._login = self._current()
        return self._login.tokens.access_token

    def exists(self) -> bool:
        """Whether somebody has logged in."""
        return os.access(self._file, os.F_OK)

    def read(self) -> Login | None:
        """The login as it is kept; None where there is none.

        Raises:
            InvalidArgument: the file is damaged, or others can read it.
        """
        try:
            data, mode = self._file.read_bytes(), self._file.stat().st_mode
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidArgument(f"{self._file} cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise InvalidArgument(f"{self._file} can be read by others: do `afdp login` again")
        try:
            members = Members(orjson.loads(data))
            tokens = members.object("tokens")
            return Login(
                url=members.string("url"),
                issuer=members.string("issuer"),
                client_id=members.string("client_id"),
                scope=members.string("scope", empty=True),
                tokens=Tokens(
                    tokens.string("access_token"),
                    float(tokens.integer("expires_at")),
                    tokens.string("refresh_token", empty=True),
                ),
                secret_file=members.string("secret_file", empty=True),
                ca_file=members.string("ca_file", empty=True),
            )
        except (orjson.JSONDecodeError, InvalidArgument):
            raise InvalidArgument(f"{self._file} is damaged: do `afdp login` again") from None

    def write(self, login: Login) -> None:
        """Keeps a login."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._file.with_suffix(f".{os.getpid()}.new")
        tokens = {**asdict(login.tokens), "expires_at": int(login.tokens.expires_at)}
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(orjson.dumps({**asdict(login), "tokens": tokens}))
        new.replace(self._file)

    def remove(self) -> None:
        """Forgets the login."""
        with suppress(FileNotFoundError):
            self._file.unlink()

    def _current(self) -> Login:
        with self._alone():  # refresh tokens are used once: two processes must not use the same one
            login = self.read()
            if login is None:
                raise Unauthenticated("nobody is logged in; do `afdp login`")
            if login.due:
                login = login.renewed()
                self.write(login)
            return login

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            file = os.open(self._file.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise Unauthenticated(f"nobody is logged in; do `afdp login` ({error.strerror})") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def config_folder() -> Path:
    """Where the user's settings of `afdp` are.

    Raises:
        InvalidArgument: the user has no home, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "afdp"
    except RuntimeError:
        raise InvalidArgument("there is no home folder for a login: set HOME or XDG_CONFIG_HOME") from None


def read_secret(file: Path) -> str:
    """A client's secret, which stands in a file alone.

    Raises:
        InvalidArgument: it cannot be read, or is empty.
    """
    try:
        secret = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidArgument.field("client_secret_file", f"cannot be read: {why}") from None
    if not secret:
        raise InvalidArgument.field("client_secret_file", "must not be empty")
    return secret
