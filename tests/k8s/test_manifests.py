"""The manifests build, are valid for Kubernetes, and agree with the exporter and with each other."""

import re
import shutil
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.k8s.checks import problems
from tests.k8s.pod import CHILD_LIMIT_MIB
from tests.k8s.rendered import APPLICATION, BASE, K8S, OVERLAYS, REPLICAS, render
from tests.k8s.schemas import NEWEST, OLDEST, violations

_FOLDERS: Final = sorted(str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_ready_to_be_applied(overlay: str) -> None:
    assert problems(render(overlay)) == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("folder", [name for name in _FOLDERS if not name.startswith("components/")])
def test_built_objects_are_valid_for_kubernetes(folder: str, version: str) -> None:
    built = render(folder).objects

    assert built
    assert [problem for one in built for problem in violations(_placed(one), version)] == []


def _placed(one: dict[str, object]) -> dict[str, object]:
    # An overlay sets the namespace.
    metadata = one["metadata"]
    assert isinstance(metadata, dict)
    return one | {"metadata": {"namespace": "any", **metadata}}


def test_every_component_is_in_an_overlay() -> None:
    used = {
        str((K8S / overlay / one).resolve().relative_to(K8S))
        for overlay in OVERLAYS
        for one in yaml.safe_load((K8S / overlay / "kustomization.yaml").read_text())["components"]
    }

    assert used == {name for name in _FOLDERS if name.startswith("components/")}


def test_every_overlay_is_tested() -> None:
    assert {name for name in _FOLDERS if name.startswith("overlays/")} == set(OVERLAYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlays_configuration_keeps_the_values_of_the_base(overlay: str) -> None:
    theirs, ours = (yaml.safe_load(render(name).configuration()) for name in (overlay, BASE))
    shared = "SIE_STORE__URL" in render(overlay).environment

    assert {key: theirs.get(key) for key in ("server", "prometheus", "store")} == {
        "server": ours["server"],
        "prometheus": ours["prometheus"],
        "store": None if shared else ours["store"],
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_site_is_read_but_not_applied(overlay: str) -> None:
    rendered = render(overlay)
    site = yaml.safe_load((K8S / overlay / "site.yaml").read_text())["data"]

    assert rendered.find("ConfigMap", "site") is None
    assert rendered.one("Ingress")["spec"]["rules"][0]["host"] == site["host"]
    account = rendered.one("ServiceAccount")["metadata"]["annotations"]
    assert account["iam.gke.io/gcp-service-account"] == site["exporter_account"]


def test_a_changed_configuration_restarts_the_pod() -> None:
    [configuration] = [
        one["metadata"]["name"]
        for one in render(BASE).all("ConfigMap")
        if one["metadata"]["name"].startswith(APPLICATION)
    ]

    assert re.fullmatch(rf"{APPLICATION}-[a-z0-9]{{10}}", configuration)
    assert configuration in str(render(BASE).pod["volumes"])


def test_the_ca_certificates_of_a_memorystore_are_mounted_at_the_path_in_its_url(tmp_path: Path) -> None:
    folder = shutil.copytree(K8S, tmp_path / "k8s") / REPLICAS
    described = folder / "kustomization.yaml"
    described.write_text(described.read_text().replace("# - valkey-ca.pem", "- valkey-ca.pem"))
    (folder / "valkey-ca.pem").write_text("authorities")
    mounts = render(REPLICAS).mounts
    [named] = re.findall(r'valkey_ca_file = "(.*)"', (K8S.parent / "infra/gcp/valkey.tf").read_text())
    file = Path(named)

    [configuration] = render(folder).all("ConfigMap")
    assert configuration["data"][file.name] == "authorities"
    assert str(file.parent) == mounts["config"]


def test_the_pod_has_the_user_and_the_store_folder_of_the_image() -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    image = dict(re.findall(r"^(USER|WORKDIR) (\S+)$", dockerfile, re.MULTILINE))
    user = render(BASE).pod["securityContext"]

    assert image["USER"] == f"{user['runAsUser']}:{user['runAsGroup']}"
    assert image["WORKDIR"] == render(BASE).mounts["data"]


def test_the_memory_limit_includes_the_limit_of_the_listing_child() -> None:
    child = (Path(__file__).parents[2] / "app/gcp/compute/__main__.py").read_text()

    assert re.findall(r'"--memory-mib", type=int, default=(\d+)', child) == [str(CHILD_LIMIT_MIB)]
