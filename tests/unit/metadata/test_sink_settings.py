"""The file of the audit trail's sinks."""

from __future__ import annotations

from pathlib import Path

import pytest

from afdp.config import SettingsError
from afdp.metadata.sinks.settings import (
    FileSettings,
    HttpSettings,
    SyslogSettings,
    parse_sinks,
    read_sinks,
    split_address,
)

ALL = b"""
sinks:
  - name: soc
    kind: syslog
    address: siem.example:6514
    ca: /etc/afdp/siem-ca.pem
    cert: /etc/afdp/siem.pem
    key: /etc/afdp/siem-key.pem
    format: cef
    severity: medium
    tenants: [acme]
  - name: lake
    kind: http
    url: https://collector.example/in
    token_file: /run/secrets/siem
  - name: disk
    kind: file
    path: /var/log/afdp/audit.ocsf
"""


def test_every_kind_of_sink_is_read() -> None:
    soc, lake, disk = parse_sinks(ALL, "sinks.yaml").sinks

    assert isinstance(soc, SyslogSettings)
    assert (soc.format, soc.severity, soc.tenants, soc.facility) == ("cef", "medium", ("acme",), 13)
    assert isinstance(lake, HttpSettings)
    assert (lake.format, lake.body, lake.token_scheme, lake.start) == ("ocsf", "lines", "Bearer", "beginning")
    assert isinstance(disk, FileSettings)
    assert disk.keep == 10


def with_sink(line: str) -> bytes:
    return f"sinks:\n  - name: a\n    kind: http\n    url: https://a.example\n    {line}\n".encode()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (with_sink("colour: red"), r"sinks\[0\].colour: Extra inputs"),
        (with_sink("severity: loud"), r"sinks\[0\].severity: "),
        (with_sink("tenants: ['no such name!']"), r"sinks\[0\].tenants\[0\]: .*must be 1 to 63"),
        (with_sink("cert: a.pem"), r"sinks\[0\]: .*cert and key go together"),
        (with_sink("batch_events: 0"), r"sinks\[0\].batch_events: "),
        (with_sink("body: array\n    format: cef"), r"sinks\[0\]: .*an array is of JSON"),
        (with_sink("token_scheme: 'a b'"), r"sinks\[0\].token_scheme: "),
        (with_sink("name: again"), r"name stands more than once"),
        (b"sinks:\n  - {name: a, kind: http, url: http://a.example}", r"sinks\[0\].url: .*must begin with https"),
        (b"sinks:\n  - {name: a, kind: http}", r"sinks\[0\].url: Field required"),
        (b"sinks:\n  - {name: a, kind: kafka}", r"sinks\[0\]: .*kafka"),
        (b"sinks:\n  - {name: 'a b', kind: file, path: /a}", r"sinks\[0\].name: "),
        (b"sinks:\n  - {name: a, kind: syslog, address: 'a:b'}", r"sinks\[0\].address: .*must be host:port"),
        (b"sinks:\n  - {name: a, kind: syslog, address: 'a:70000'}", r"sinks\[0\].address: .*must be host:port"),
        (
            b"sinks:\n  - {name: a, kind: file, path: /a}\n  - {name: a, kind: file, path: /b}",
            "must have each name once",
        ),
        (b"sink: []", "sink: Extra inputs"),
        (b"- a", "the file: "),
        (b"a: [", "is not valid YAML"),
        (b"? [a]\n: b", "is not valid YAML|the file"),
    ],
)
def test_what_is_wrong_is_named(document: bytes, message: str) -> None:
    with pytest.raises(SettingsError, match=f"AFDP_AUDIT_SINKS: .*{message}"):
        parse_sinks(document, "sinks.yaml")


def test_no_message_shows_a_value() -> None:
    with pytest.raises(SettingsError) as raised:
        parse_sinks(with_sink("token_scheme: 'hunter2 '"), "sinks.yaml")

    assert "hunter2" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.yaml cannot be read"):
        read_sinks(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("siem.example", ("siem.example", 6514)),
        ("192.0.2.1:514", ("192.0.2.1", 514)),
        ("[::1]:99", ("::1", 99)),
        ("[::1]", ("::1", 6514)),
    ],
)
def test_an_address_has_a_port(address: str, found: tuple[str, int]) -> None:
    assert split_address(address) == found


def test_the_example_in_the_documents_is_right_and_names_every_setting() -> None:
    document = (Path(__file__).parents[3] / "docs" / "siem.md").read_text()
    example = document.partition("```yaml\n")[2].partition("```")[0]

    assert [each.kind for each in parse_sinks(example.encode(), "siem.md").sinks] == ["syslog", "http", "file"]
    table = document.partition("| setting | of |")[2].partition("\n\n")[0]
    kinds = (SyslogSettings, HttpSettings, FileSettings)
    assert [name for kind in kinds for name in kind.model_fields if f"`{name}`" not in table] == ["kind"] * 3
