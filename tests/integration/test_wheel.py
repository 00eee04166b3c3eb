"""What is installed from a wheel, which has no repository around it."""

import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


def test_a_wheel_holds_what_vault_is_set_up_with(tmp_path: Path) -> None:
    """`client/` links to `deploy/vault`, so that production and `afdp dev --vault` have one set-up and one policy."""
    [built] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        for name in ("signer", "key-admin", "operator"):
            held = wheel.read(f"afdp/embedded/policies/{name}.hcl")
            assert held == (ROOT / f"deploy/vault/policies/{name}.hcl").read_bytes()
        assert wheel.read("afdp/embedded/vault_setup.py") == (ROOT / "deploy/vault/setup.py").read_bytes()
