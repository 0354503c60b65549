"""The versions that pyproject.toml allows: the lowest and the newest of each dependency both work."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest
from uv import find_uv_bin

from tests.support.requirement import require

ROOT: Final = Path(__file__).parent.parent.parent
TESTS: Final = ("tests/web",)
OPTIONS: Final = ("-q", "-pno:cacheprovider", "-pno:anyio")
TOOLS: Final = ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist")
ENVIRONMENT: Final = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    # Without the variables of the surrounding pytest, which its children would read.
    environment = ENVIRONMENT | {"VIRTUAL_ENV": str(folder), "UV_NATIVE_TLS": "true"}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(params=["lowest-direct", "highest"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A virtual environment with the lowest or the newest version of every dependency."""
    folder = tmp_path / "venv"
    uv = find_uv_bin()
    run(folder, uv, "venv", "--quiet", folder).check_returncode()
    resolved = run(
        folder, uv, "pip", "install", "--quiet", "--resolution", request.param, f"{ROOT}[pull,redis]"
    )
    require(f"a package registry ({resolved.stderr.strip()})", resolved.returncode == 0)
    # The tools are the newest in both: what is bounded is the product.
    run(folder, uv, "pip", "install", "--quiet", *TOOLS).check_returncode()
    return folder / "bin"


def test_the_lowest_and_the_newest_allowed_versions_pass_the_tests_and_the_demo(installed: Path) -> None:
    tests = run(installed.parent, installed / "python", "-m", "pytest", *OPTIONS, *TESTS)
    demo = run(installed.parent, installed / "spot-interruption-exporter", "demo", "--once", "--port", "0")

    assert tests.returncode == 0, tests.stdout[-5000:] + tests.stderr[-1000:]
    assert demo.returncode == 0, demo.stdout[-2000:] + demo.stderr[-2000:]
