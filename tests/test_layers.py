"""The import contracts: complete lists of modules, and forbidden packages that exist."""

import tomllib
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import grimp
import pytest
from importlinter.contracts.protected import ProtectedContract

ROOT: Final = Path(__file__).parent.parent
CONTRACTS: Final[list[dict[str, Any]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]
BACKENDS: Final = "Only the opening names a backend"
OPENING: Final = "app.store.opening"
SHARED_BY_BACKENDS: Final = {
    "app.store",
    "app.store.engine",
    "app.store.memory",
    OPENING,
    "app.store.port",
    "app.store.watched",
}
"""The modules of the store that belong to no backend."""


def modules_below(package: str) -> set[str]:
    folder = ROOT / package.replace(".", "/")
    files = (path.relative_to(ROOT).with_suffix("") for path in folder.rglob("*.py"))
    return {".".join(path.parts).removesuffix(".__init__") for path in files}


BACKEND_MODULES: Final = sorted(modules_below("app.store") - SHARED_BY_BACKENDS)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("app", cache_dir=None)


def is_kept(graph: grimp.ImportGraph, *stray: tuple[str, str]) -> bool:
    """Return whether the contract about the backends is kept with these imports more."""
    graph = deepcopy(graph)
    for importer, imported in stray:
        graph.add_import(importer=importer, imported=imported)
    (options,) = (contract for contract in CONTRACTS if contract["name"] == BACKENDS)
    contract = ProtectedContract(BACKENDS, session_options={}, contract_options=options)
    return contract.check(graph, verbose=False).kept


def test_only_the_opening_names_a_backend(graph: grimp.ImportGraph) -> None:
    assert is_kept(graph)
    assert is_kept(graph, *((OPENING, module) for module in BACKEND_MODULES))


@pytest.mark.parametrize("importer", ["app.recorder", *sorted(SHARED_BY_BACKENDS - {OPENING})])
@pytest.mark.parametrize("module", BACKEND_MODULES)
def test_a_stray_import_of_any_backend_module_is_broken(
    graph: grimp.ImportGraph, module: str, importer: str
) -> None:
    assert not is_kept(graph, (importer, module))


# A forbidden package that is misspelt, or not installed, is never imported: its contract is kept.
@pytest.mark.parametrize(
    "package", sorted({name for contract in CONTRACTS for name in contract.get("forbidden_modules", ())})
)
def test_every_forbidden_package_is_installed(package: str) -> None:
    assert find_spec(package) is not None
