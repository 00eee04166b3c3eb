"""Which certificates of an authority end soon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509

from afdp.certs.authority import Authority


def ending_soon(authority: Authority, days: int) -> list[str]:
    """The names of those that the folder holds and that end within so many days."""
    until = datetime.now(UTC) + timedelta(days=days)
    found = []
    for path in sorted(authority.folder.glob("*.pem")):
        name = path.stem
        if name in ("ca", "crl") or name.endswith("-key"):
            continue
        if x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc <= until:
            found.append(name)
    return found
