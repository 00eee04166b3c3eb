"""FIPS mode (`AFDP_FIPS=required`): whether the cryptography of this process comes from FIPS providers.

A Python process has two OpenSSLs: one that `cryptography` signs, verifies and encrypts with, and one behind Python's
own `hashlib` and `ssl`; they may be one file or two. Each has to fetch its algorithms with the property `fips=yes`
(OpenSSL's fips_module(7)), to do what we ask of it under that property, and to refuse what is not approved. Which
algorithms are used at all is decided where keys are read, in both modes alike; `docs/fips.md` lists them.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Mode = Literal["off", "required"]


class FipsError(Exception):
    """FIPS mode is required and the process is not in it; the message says why and what to do, in a sentence."""


@dataclass(frozen=True, slots=True)
class CryptoModule:
    """One OpenSSL of this process.

    Attributes:
        user: what uses it.
        version: as it gives it.
        fault: why it does not count as being in FIPS mode; empty where it does.
    """

    user: str
    version: str
    fault: str


def crypto_modules() -> tuple[CryptoModule, CryptoModule]:
    """Both, checked now: a few milliseconds."""
    from cryptography.hazmat.backends.openssl.backend import backend

    return (
        CryptoModule("cryptography", backend.openssl_version_text(), _fault(_cryptography_is_on, _use_cryptography)),
        CryptoModule("Python", ssl.OPENSSL_VERSION, _fault(_python_is_on, _use_python)),
    )


def require_fips() -> None:
    """Checks that both are in FIPS mode.

    Raises:
        FipsError: one is not.
    """
    faults = [f"{each.user}'s {each.version} {each.fault}" for each in crypto_modules() if each.fault]
    if faults:
        advice = "run an image that is built as docs/fips.md says, or set AFDP_FIPS=off"
        raise FipsError(f"AFDP_FIPS=required, but {' and '.join(faults)}: {advice}")


def described(mode: Mode) -> str:
    """What runs, in a sentence for operators."""
    modules = crypto_modules()
    versions = ", ".join(f"{each.version} ({each.user})" for each in modules)
    if mode == "off":
        return f"FIPS mode is off; {versions}"
    return f"FIPS mode is {'broken' if any(each.fault for each in modules) else 'on'}; {versions}"


def _fault(is_on: Callable[[], bool], use: Callable[[], None]) -> str:
    if not is_on():
        return "has no active FIPS provider"
    try:
        use()
    except FipsError as error:
        return str(error)
    except Exception as error:  # whatever the package makes of an algorithm that is not there
        return f"asks for a FIPS provider, and nothing works with it ({type(error).__name__})"
    return ""


def _cryptography_is_on() -> bool:
    from cryptography.hazmat.bindings._rust import openssl  # nothing public says it

    return openssl.is_fips_enabled()


def _use_cryptography() -> None:
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, SECP384R1, generate_private_key
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import MD5, SHA256, SHA384, Hash

    for curve, digest in ((SECP256R1(), ECDSA(SHA256())), (SECP384R1(), ECDSA(SHA384()))):
        key = generate_private_key(curve)
        key.public_key().verify(key.sign(b"afdp", digest), b"afdp", digest)
    cipher = AESGCM(AESGCM.generate_key(256))
    cipher.decrypt(bytes(12), cipher.encrypt(bytes(12), b"afdp", None), None)
    try:
        log_key = Ed25519PrivateKey.generate()
        log_key.public_key().verify(log_key.sign(b"afdp"), b"afdp")
    except (UnsupportedAlgorithm, InternalError):
        raise FipsError("has a FIPS provider without Ed25519 (FIPS 186-5), which the log is signed with") from None
    try:
        Hash(MD5())  # noqa: S303 # it has to fail
    except (UnsupportedAlgorithm, InternalError):
        return
    raise FipsError("still computes MD5")


def _python_is_on() -> bool:
    from _hashlib import get_fips_mode  # nothing public says it

    return bool(get_fips_mode())


def _use_python() -> None:
    from _hashlib import openssl_md5, openssl_sha256, openssl_sha384  # hashlib falls back to code of Python's own

    openssl_sha256(b"afdp")
    openssl_sha384(b"afdp")
    ssl.create_default_context()
    try:
        openssl_md5(b"afdp")
    except ValueError:
        return
    raise FipsError("still computes MD5")
