from __future__ import annotations

import pytest

from afdp.errors import InvalidArgument
from afdp.formats.note import SignatureType, VerifierKey
from afdp.verify.policy import Policy, read_policy

WITNESS = VerifierKey("witness.example", bytes(32), SignatureType.COSIGNATURE_ED25519)


def test_an_empty_policy_is_the_default_one() -> None:
    assert read_policy(b"") == read_policy(b"{}") == Policy()
    assert Policy().require_log


def test_a_policy_reads_the_same_from_yaml_and_from_json() -> None:
    yaml = f"""
    require_log: false   # what is only signed is enough here
    require_timestamp: true
    require_witnesses: 1
    witnesses: ["{WITNESS}"]
    tenant: acme
    submitters: [ci@acme]
    event_types: [ai.model.deployment.completed]
    """
    json = f"""{{"require_log": false, "require_timestamp": true, "require_witnesses": 1, "witnesses": ["{WITNESS}"],
        "tenant": "acme", "submitters": ["ci@acme"], "event_types": ["ai.model.deployment.completed"]}}"""

    assert read_policy(yaml.encode()) == read_policy(json.encode())
    assert read_policy(yaml.encode()) == Policy(
        require_log=False,
        require_timestamp=True,
        require_witnesses=1,
        witnesses=(WITNESS,),
        tenant="acme",
        submitters=("ci@acme",),
        event_types=("ai.model.deployment.completed",),
    )


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ("require_logs: true", "require_logs: is unknown"),
        ("require_log: 1", "require_log: must be true or false"),
        ("require_log: true\nrequire_log: false", "require_log: the key stands twice"),
        ("require_witnesses: 1", "require_witnesses: asks for more than the 0 witnesses named"),
        ("witnesses: [what]", r"witnesses\[0\]: "),
        (f"witnesses: ['{VerifierKey('log.example', bytes(32))}']", r"witnesses\[0\]: is a log's key"),
        ("tenant: ''", "tenant: must not be empty"),
        ("submitters: ci@acme", "submitters: must be an array"),
        ("- require_log", "body: must be an object"),
        ("require_log: [", "body: not YAML"),
        ('{"tenant": "a", "tenant": "b"}', "tenant: the key stands twice"),
        ("!!python/object/apply:os.getcwd []", "body: not YAML"),
    ],
)
def test_a_policy_that_is_not_understood_whole_is_refused(document: str, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        read_policy(document.encode())
