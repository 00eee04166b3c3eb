"""An authority in a folder: what it issues, to whom it may, what it takes back."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from afdp.certs.authority import Authority
from afdp.certs.deployment import hand_out, identity, prepare
from afdp.certs.names import Names
from afdp.cli.certs import init, inspect, issue, revoke
from afdp.errors import AlreadyExists, InvalidArgument, NotFound
from afdp.notary.identity.settings import parse_identity
from afdp.tls.material import TlsError, TlsPaths, load_material
from tests.local_tls import TlsAuthority

DOMAIN = "acme.example"
ALICE = Names(uris=(f"spiffe://{DOMAIN}/alice",))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca", DOMAIN, ("acme.example",))


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_openssl_finds_the_chain_good_and_keys_are_their_owners(authority: Authority) -> None:
    issued = authority.issue("www", Names.parse(["www.acme.example", "192.0.2.1", f"spiffe://{DOMAIN}/www"]))

    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", authority.file, issued.cert]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    keys = [*authority.folder.glob("*-key.pem")]
    assert len(keys) == 2
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_a_certificate_ends_soon_and_never_after_its_authority(authority: Authority) -> None:
    soon = certificate(authority.issue("a", ALICE).cert).not_valid_after_utc
    late = certificate(authority.issue("b", ALICE, days=800).cert).not_valid_after_utc

    assert soon < datetime.now(UTC) + timedelta(days=31)
    assert late == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize("name", ["www.other.example", "acme.example.org", "xacme.example", "spiffe://other.example"])
def test_it_issues_for_no_name_outside_of_its_constraints(authority: Authority, name: str) -> None:
    with pytest.raises(InvalidArgument, match="may not issue for"):
        authority.issue("www", Names.parse([name]))
    assert not authority.issued("www").cert.exists()


@pytest.mark.parametrize(
    "name", ["", "a b", "-a.acme.example", "https://", "spiffe://user@acme.example/a", "ä.example"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        Names.parse([name])


def test_a_renewed_certificate_is_for_the_same_and_has_another_key(authority: Authority) -> None:
    old = certificate(authority.issue("alice", ALICE, server=False).cert)
    new = certificate(authority.renew("alice").cert)

    names = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(names) == old.extensions.get_extension_for_class(names)
    assert new.extensions.get_extension_for_class(x509.ExtendedKeyUsage) == old.extensions.get_extension_for_class(
        x509.ExtendedKeyUsage
    )
    assert new.public_key() != old.public_key()


def test_what_is_revoked_stays_on_the_list(authority: Authority) -> None:
    serials = []
    for name in ("a", "b"):
        serials.append(certificate(authority.issue(name, ALICE).cert).serial_number)
        authority.revoke(name)
    authority.revoke("b")
    authority.renew_list()

    listed = x509.load_pem_x509_crl(authority.list_file.read_bytes())
    assert sorted(each.serial_number for each in listed) == sorted(serials)
    assert listed.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type]  # an EC key


def test_a_folder_holds_one_authority_and_a_lost_one_is_named(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists):
        Authority.make(authority.folder, DOMAIN)
    with pytest.raises(NotFound, match="afdp certs init"):
        Authority(tmp_path / "nothing")
    with pytest.raises(NotFound):
        authority.revoke("nobody")
    for name in ("ca", "crl", "a-key", "../a", "A"):
        with pytest.raises(InvalidArgument):
            authority.issue(name, ALICE)


def test_each_service_is_handed_its_own_files_and_they_serve(tmp_path: Path) -> None:
    for _ in range(2):  # the second time finds all there
        hand_out(prepare(tmp_path / "ca", DOMAIN), tmp_path / "out")

    signer = tmp_path / "out" / "signer"
    assert {file.name for file in signer.iterdir()} == {"cert.pem", "key.pem", "ca.pem", "crl.pem"}
    load_material(TlsPaths(signer / "cert.pem", signer / "key.pem", signer / "ca.pem", crl=signer / "crl.pem"))
    keys = {file.read_bytes() for file in (tmp_path / "out").glob("*/*key.pem")}
    assert len(keys) == 8
    assert not list((tmp_path / "out").glob("**/ca-key.pem"))
    assert {file.name for file in (tmp_path / "out" / "authority").iterdir()} == {"ca.pem", "crl.pem"}


def test_the_people_of_a_deployment_are_known_to_the_notary() -> None:
    rules = parse_identity(identity(DOMAIN).encode(), "test").certificates

    assert [rule.roles for rule in rules] == [("admin",), ("ai_engineer",), ("security_analyst",)]


def test_files_that_do_not_go_together_are_refused_and_named(tmp_path: Path) -> None:
    ca, other = (Authority.make(tmp_path / name, DOMAIN) for name in ("ca", "other"))
    mine, yours = ca.issue("a", ALICE), ca.issue("b", ALICE)
    weak = TlsAuthority(tmp_path, "weak", key=rsa.generate_private_key(65537, 1024))
    weak_key = tmp_path / "weak-key.pem"
    weak_key.write_bytes(weak.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")

    for paths, reason in [
        (TlsPaths(mine.cert, yours.key, ca.file), "is not the key of the certificate"),
        (TlsPaths(broken, mine.key, ca.file), "broken.pem holds no certificate"),
        (TlsPaths(mine.cert, mine.cert, ca.file), "holds no key in PEM"),
        (TlsPaths(mine.cert, mine.key, tmp_path / "none"), "cannot be read"),
        (TlsPaths(mine.cert, mine.key, ca.file, crl=other.list_file), "none of the authorities has signed"),
        (TlsPaths(mine.cert, mine.key, ca.file, crl=ca.file), "holds no revocation list"),
        (
            TlsPaths(weak.file, weak_key, ca.file),
            r"weak.pem cannot be used for TLS with .*weak-key.pem: ee key too small",
        ),
    ]:
        with pytest.raises(TlsError, match=reason):
            load_material(paths)


def test_the_command_does_what_it_says(tmp_path: Path) -> None:
    run, folder = CliRunner(), str(tmp_path / "ca")
    assert run.invoke(init, ["--folder", folder, "--hand-out", str(tmp_path / "out")]).exit_code == 0
    made = run.invoke(issue, ["ci", "spiffe://afdp.internal/ci", "--client", "--folder", folder])
    assert (made.exit_code, made.output) == (0, f"{folder}/ci.pem\n")
    assert run.invoke(revoke, ["ci", "--folder", folder]).exit_code == 0
    shown = run.invoke(inspect, [f"{folder}/ci.pem"]).output
    serial = f"{certificate(Path(folder, 'ci.pem')).serial_number:x}"
    assert '"spiffe://afdp.internal/ci"' in shown
    assert serial in shown
    assert serial in run.invoke(inspect, [f"{folder}/crl.pem"]).output
    refused = run.invoke(issue, ["www", "www.example.org", "--folder", folder])
    assert refused.exit_code == 2
    assert "may not issue for www.example.org" in refused.output
