"""Kubernetes' programs and etcd, built from their Go modules and kept in the user's cache folder.

    python -m tests.k8s.servers

needs Go and a proxy for Go modules. The first build takes many minutes, so CI does not run it.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

VERSION: Final = "1.35.4"
PROGRAMS: Final[Mapping[str, str]] = {
    "etcd": "go.etcd.io/etcd/server/v3",  # in the version that Kubernetes requires
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
COMMAND: Final = "python -m tests.k8s.servers"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER: Final = CACHE / "spot-interruption-exporter" / f"kubernetes-{VERSION}"
_OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_STAMP: Final = "-X k8s.io/component-base/version.git"


def servers() -> Path:
    """Return the folder with the programs. Skips the test if one of them is missing, in CI too."""
    missing = [name for name in PROGRAMS if not (FOLDER / name).exists()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} in {FOLDER}: run `{COMMAND}`, which takes many minutes")
    return FOLDER


def definitions() -> Iterator[dict[str, Any]]:
    """Yield the definitions of custom kinds in `crds/`: of Prometheus Operator, and what a person adds."""
    for path in sorted((FOLDER / "crds").glob("*.yaml")):
        for content in yaml.safe_load_all(path.read_text()):
            if content and content["kind"] == "CustomResourceDefinition":
                yield content


def build() -> None:
    """Build the programs, and copy the definitions of Prometheus Operator."""
    # Kubernetes' own module replaces the modules of its staging folder by paths that only its repository has.
    declared = Path(_download(f"k8s.io/kubernetes@v{VERSION}")["GoMod"]).read_text()
    staging = re.findall(r"^\s*(?:replace )?(\S+) => \./staging/", declared, re.MULTILINE)
    released = f"v0.{VERSION.partition('.')[2]}"
    module = ["module servers", *re.findall(r"^go .*", declared, re.MULTILINE)]
    module += [f"require k8s.io/kubernetes v{VERSION}"]
    module += [f"replace {name} => {name} {released}" for name in staging]
    major, minor, _ = VERSION.split(".")
    stamps = f"{_STAMP}Version=v{VERSION} {_STAMP}Major={major} {_STAMP}Minor={minor}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "go.mod").write_text("\n".join(module) + "\n")
        for name, package in PROGRAMS.items():
            print(f"building {name}")  # noqa: T201
            output = Path(folder) / name
            subprocess.run(
                ["go", "build", "-mod=mod", "-buildvcs=false", "-ldflags", stamps, "-o", output, package],
                cwd=folder,
                check=True,
            )
            shutil.move(output, FOLDER / name)
    operator = Path(_download(_OPERATOR)["Dir"]) / "example/prometheus-operator-crd"
    (FOLDER / "crds").mkdir(exist_ok=True)
    for kind in ("prometheusrules", "servicemonitors"):
        shutil.copyfile(
            operator / f"monitoring.coreos.com_{kind}.yaml", FOLDER / "crds" / f"operator-{kind}.yaml"
        )
    print(f"built in {FOLDER}")  # noqa: T201


def _download(module: str) -> dict[str, str]:
    done = subprocess.run(
        ["go", "mod", "download", "-json", module], cwd="/", stdout=subprocess.PIPE, check=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    os.nice(19)
    build()
