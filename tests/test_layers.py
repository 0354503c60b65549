"""The import contracts: complete lists of modules, and forbidden packages that exist."""

import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parent.parent
CONTRACTS: Final[list[dict[str, Any]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]
ADAPTERS: Final = "Only open_store names an adapter"
PORT: Final = {"app.store"}


def modules_below(package: str) -> set[str]:
    folder = ROOT / package.replace(".", "/")
    files = (path.relative_to(ROOT).with_suffix("") for path in folder.rglob("*.py"))
    return {".".join(path.parts).removesuffix(".__init__") for path in files}


def test_every_module_of_the_store_but_the_port_is_a_protected_adapter() -> None:
    (contract,) = (contract for contract in CONTRACTS if contract["name"] == ADAPTERS)

    assert set(contract["protected_modules"]) == modules_below("app.store") - PORT


# A forbidden package that is misspelt, or not installed, is never imported: its contract is kept.
@pytest.mark.parametrize(
    "package", sorted({name for contract in CONTRACTS for name in contract.get("forbidden_modules", ())})
)
def test_every_forbidden_package_is_installed(package: str) -> None:
    assert find_spec(package) is not None
