"""Time-stamping authorities as a trust root has them: in Sigstore's `timestampAuthorities`, and as PEM (`tsa.pem`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from urllib.parse import urlsplit

from afdp.errors import InvalidArgument
from afdp.formats.certificates import Chain, from_pem, name_parts, read_chain, to_pem
from afdp.formats.encoding import b64
from afdp.formats.members import Members
from afdp.formats.timestamps import format_timestamp


@dataclass(frozen=True)
class TimestampAuthority:
    """One certificate of an authority, with its chain.

    Attributes:
        uri: where it answers; its host tells whose it is.
        certificates: X.509, DER: the one whose key signs first, the root last.
        valid_from, valid_until: when its stamps count; `valid_until` is the first moment when they do not.
    """

    uri: str
    certificates: tuple[bytes, ...] = field(repr=False)
    valid_from: datetime
    valid_until: datetime | None = None

    @classmethod
    def of(
        cls, uri: str, certificates: Sequence[bytes], valid_from: datetime, valid_until: datetime | None = None
    ) -> TimestampAuthority:
        """An authority whose chain was checked.

        Raises:
            InvalidArgument: its chain does not hold, its URI has no host, or its interval is empty.
        """
        authority = cls(uri, tuple(certificates), valid_from, valid_until)
        try:
            read_chain(authority.certificates)
        except ValueError as error:
            raise InvalidArgument.field("certChain", str(error)) from error
        if not authority.host:
            raise InvalidArgument.field("uri", "must be a URI with a host")
        if valid_until is not None and valid_until <= valid_from:
            raise InvalidArgument.field("validFor", "must end after it starts")
        return authority

    @cached_property
    def chain(self) -> Chain:
        """Its certificates, read and checked."""
        return read_chain(self.certificates)

    @cached_property
    def name(self) -> str:
        """What its certificate calls it: its common name, else its organisation, else its host."""
        subject = name_parts(self.chain.authority.subject)
        return subject.get("commonName") or subject.get("organization") or self.host

    @property
    def host(self) -> str:
        """The host of its URI, in lower case; empty where there is none."""
        try:
            return urlsplit(self.uri).hostname or ""
        except ValueError:
            return ""

    def to_object(self) -> dict[str, object]:
        """Sigstore's CertificateAuthority as a JSON object."""
        subject = name_parts(self.chain.authority.subject)
        valid_for = {"start": format_timestamp(self.valid_from)}
        if self.valid_until is not None:
            valid_for["end"] = format_timestamp(self.valid_until)
        return {
            "subject": {"organization": subject.get("organization", ""), "commonName": subject.get("commonName", "")},
            "uri": self.uri,
            "certChain": {"certificates": [{"rawBytes": b64(each)} for each in self.certificates]},
            "validFor": valid_for,
        }

    @classmethod
    def from_members(cls, members: Members) -> TimestampAuthority:
        """Reads what `to_object` wrote.

        Raises:
            InvalidArgument: names the member that is missing, unknown or wrong.
        """
        subject = members.object("subject")
        for name in ("organization", "commonName"):  # for people; the certificate says it too
            if subject.has(name):
                subject.string(name, empty=True)
        uri, chain, valid_for = members.string("uri"), members.object("certChain"), members.object("validFor")
        certificates = tuple(map(_certificate, chain.objects("certificates")))
        start, end = valid_for.time("start"), valid_for.optional_time("end")
        for each in (members, subject, chain, valid_for):
            each.end()
        try:
            return cls.of(uri, certificates, start, end)
        except InvalidArgument as error:
            [refused] = error.fields
            members.refuse(refused.field, refused.message)


def _certificate(members: Members) -> bytes:
    data = members.base64("rawBytes")
    members.end()
    return data


def authorities_pem(authorities: Iterable[TimestampAuthority]) -> str:
    """Every certificate of the authorities once, in PEM: what `openssl ts -verify` takes as CAfile and as untrusted."""
    return to_pem(dict.fromkeys(each for authority in authorities for each in authority.certificates))


def require_same_certificates(authorities: Iterable[TimestampAuthority], pem: str) -> None:
    """Compares the authorities with the PEM file beside them.

    Raises:
        ValueError: it is no such file, or does not have the certificates that the authorities have.
    """
    if set(from_pem(pem)) != {each for authority in authorities for each in authority.certificates}:
        raise ValueError("does not have the certificates that the trusted root has")
