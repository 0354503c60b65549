"""Every module that an import-linter contract lists exists, and none that belongs there is missing."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parent.parent
CONTRACTS: Final[list[dict[str, Any]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]
LISTS: Final = ("source_modules", "protected_modules", "allowed_importers", "modules")
ADAPTERS: Final = "Only open_store names an adapter"
PORT: Final = {"app.store"}


def modules_below(package: str) -> set[str]:
    folder = ROOT / package.replace(".", "/")
    files = (path.relative_to(ROOT).with_suffix("") for path in folder.rglob("*.py"))
    return {".".join(path.parts).removesuffix(".__init__") for path in files}


def listed() -> Iterator[tuple[str, str]]:
    for contract in CONTRACTS:
        for key in LISTS:
            yield from ((contract["name"], module) for module in contract.get(key, ()))
        for container in contract.get("containers", ()):
            for layer in contract["layers"]:
                yield from ((contract["name"], f"{container}.{name.strip()}") for name in layer.split("|"))


# import-linter says nothing of a name in a list that is not a module.
@pytest.mark.parametrize(("contract", "module"), list(listed()))
def test_every_module_that_a_contract_lists_exists(contract: str, module: str) -> None:
    assert module in modules_below("app"), contract


def test_every_module_of_the_store_but_the_port_is_a_protected_adapter() -> None:
    (contract,) = (contract for contract in CONTRACTS if contract["name"] == ADAPTERS)

    assert set(contract["protected_modules"]) == modules_below("app.store") - PORT
