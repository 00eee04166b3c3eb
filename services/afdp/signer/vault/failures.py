"""Vault's errors in our words. Its own texts may quote paths and policies: they go nowhere."""

from __future__ import annotations

from hvac.exceptions import (
    Forbidden,
    InvalidPath,
    InvalidRequest,
    RateLimitExceeded,
    Unauthorized,
    VaultDown,
    VaultError,
    VaultNotInitialized,
)
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from afdp.errors import FailedPrecondition, NotaryError, Unavailable
from afdp.vault.transport import Redirected

# What a call of Vault can raise, in its thread or around it.
FAILURES = (VaultError, HTTPError, TimeoutError, LookupError, TypeError, ValueError)

# What a login is answered with that showed the wrong credentials, or was for a role or method that is not there.
REFUSALS = (Forbidden, InvalidPath, InvalidRequest, Unauthorized)

_AWAY = 2.0  # seconds after which to try again
_OPERATOR = 5.0  # where somebody has to do something first


def translated(error: Exception) -> NotaryError:
    """The error that our callers see."""
    if isinstance(error, InvalidPath):
        return FailedPrecondition("Vault has no such key or mount")
    if isinstance(error, InvalidRequest):
        return FailedPrecondition("Vault refused the request: is the key there, and of the right type?")
    sentence, retry_after = _sentence(error)
    return Unavailable(sentence, retry_after=retry_after)


def is_away(error: Exception) -> bool:
    """Whether it tells that Vault serves nobody, rather than that it did not like this call."""
    return isinstance(error, (HTTPError, TimeoutError, VaultDown, VaultNotInitialized))


def took_its_time(error: Exception) -> bool:
    """Whether the caller waited for as long as a call may take."""
    waited = (ConnectTimeoutError, ReadTimeoutError, TimeoutError)
    return isinstance(error, waited) and not isinstance(
        error, NewConnectionError
    )  # refused: one of the first, yet fast


def was_cut(error: Exception) -> bool:
    """Whether the connection ended under the call, as one does that was kept open while Vault restarted."""
    return isinstance(error, ProtocolError)


def _sentence(error: Exception) -> tuple[str, float]:
    if isinstance(error, VaultDown):
        return "Vault is sealed, or a standby without an active node", _OPERATOR
    if isinstance(error, VaultNotInitialized):
        return "Vault is not initialised", _OPERATOR
    if isinstance(error, Redirected):
        return "Vault's node is a standby that cannot pass this on: is its active node there?", _AWAY
    if isinstance(error, (Forbidden, Unauthorized)):
        return "Vault does not let us do this", _OPERATOR
    if isinstance(error, RateLimitExceeded):
        return "Vault's rate limit is reached", _AWAY
    if isinstance(error, VaultError):
        return "Vault failed inside", _AWAY
    if took_its_time(error):
        return "Vault did not answer in time", _AWAY
    if isinstance(error, SSLError):
        return "Vault's certificate is not trusted, or it refuses ours: see AFDP_VAULT_CA_FILE", _OPERATOR
    if isinstance(error, NewConnectionError):
        return "Vault cannot be reached", _AWAY
    if isinstance(error, HTTPError):
        return "Vault ended the connection", _AWAY
    return "what answers at AFDP_VAULT_ADDR does not speak as Vault", _OPERATOR
