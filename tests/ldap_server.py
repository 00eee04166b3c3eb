"""A directory that is not ours: OpenLDAP on loopback with some people and their groups."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afdp.embedded.process import free_port

_CONFIG = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
database mdb
suffix "dc=acme,dc=example"
rootdn "cn=admin,dc=acme,dc=example"
rootpw only-for-tests
directory {folder}/data
"""
_ENTRIES = """
dn: dc=acme,dc=example
objectClass: dcObject
objectClass: organization
dc: acme
o: Acme

dn: ou=people,dc=acme,dc=example
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=acme,dc=example
objectClass: organizationalUnit
ou: groups

dn: uid=alice,ou=people,dc=acme,dc=example
objectClass: inetOrgPerson
uid: alice
cn: Alice Example
givenName: Alice
sn: Example
mail: alice@acme.example
o: acme
userPassword: alice's password

dn: cn=ai_engineer,ou=groups,dc=acme,dc=example
objectClass: groupOfNames
cn: ai_engineer
member: uid=alice,ou=people,dc=acme,dc=example
"""


@contextmanager
def running_directory(slapd: Path, folder: Path) -> Iterator[str]:
    """The directory's URL, while the context is open."""
    (folder / "data").mkdir(parents=True)
    config = folder / "slapd.conf"
    config.write_text(_CONFIG.format(folder=folder))
    load = [slapd, "-T", "add", "-f", config, "-q"]
    subprocess.run(load, input=_ENTRIES, text=True, check=True, timeout=60, capture_output=True)
    url = f"ldap://127.0.0.1:{free_port()}"
    with (folder / "slapd.log").open("w") as log:
        process = subprocess.Popen([slapd, "-f", config, "-h", url, "-d", "none"], stdout=log, stderr=log)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
