"""Terraform's google provider for the tests: the real one from a filesystem mirror, or the stand-in."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.infra.stand_in.encoding import encoded_schemas
from tests.support.docs import ROOT

MIRROR: Final = "TERRAFORM_MIRROR"
"""The variable that names a filesystem mirror with the real provider.

https://developer.hashicorp.com/terraform/cli/config/config-file#filesystem_mirror
"""
STAND_IN: Final = ROOT / "tests/infra/stand_in"
_ADDRESS: Final = "registry.terraform.io/hashicorp/google"
_VERSION: Final = "6.50.0"  # the lowest that versions.tf allows

# Without TLS between Terraform and the provider, prompts, and checks for a newer version.
_ENVIRONMENT: Final = {
    "CHECKPOINT_DISABLE": "1",
    "TF_DISABLE_PLUGIN_TLS": "1",
    "TF_IN_AUTOMATION": "1",
    "TF_INPUT": "0",
}


def schemas() -> Any:  # noqa: ANN401  # YAML
    """Return the types of the stand-in, as in its file."""
    return yaml.safe_load((STAND_IN / "google.yaml").read_text())


def real_mirror() -> str:
    """Return the folder of the mirror with the real provider; empty if none is named."""
    return os.environ.get(MIRROR, "")


def terraform() -> str:
    """Return the path of Terraform. Skips the test if it is missing."""
    found = shutil.which("terraform")
    if found is None:
        pytest.skip("needs terraform, which is not here")
    return found


def run(*arguments: str, within: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run Terraform."""
    configuration = within / ".terraformrc"
    found = {"TF_CLI_CONFIG_FILE": str(configuration)} if configuration.exists() else {}
    return subprocess.run(
        [terraform(), *arguments],
        cwd=within,
        input=stdin,
        env=os.environ | _ENVIRONMENT | found,
        capture_output=True,
        text=True,
        check=False,
    )


def initialise(folder: Path, scratch: Path) -> None:
    """Install the provider for the configuration in a folder."""
    mirror = real_mirror() or str(_stand_in(scratch))
    (folder / ".terraformrc").write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
    )
    done = run("init", "-no-color", "-backend=false", within=folder)
    assert done.returncode == 0, done.stderr


def _stand_in(scratch: Path) -> Path:
    """Return a mirror with the stand-in."""
    platform = json.loads(run("version", "-json", within=scratch).stdout)["platform"]
    mirror = scratch / "mirror"
    place = mirror / _ADDRESS / _VERSION / platform
    if place.exists():
        return mirror
    place.mkdir(parents=True)
    encoded = scratch / "schemas"
    encoded.write_bytes(encoded_schemas(schemas()))
    _script(
        place / f"terraform-provider-google_v{_VERSION}", [sys.executable, STAND_IN / "server.py", encoded]
    )
    return mirror


def _script(path: Path, command: Sequence[str | Path]) -> None:
    path.write_text(f"#!/bin/sh\nexec {shlex.join(map(str, command))}\n")
    path.chmod(0o755)
