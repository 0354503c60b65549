"""The manifests build, are valid for Kubernetes, and agree with the exporter and with each other."""

import re
import shutil
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.k8s.checks import problems
from tests.k8s.pod import CHILD_LIMIT_MIB
from tests.k8s.rendered import (
    APPLICATION,
    BASE,
    GKE,
    K8S,
    NGINX,
    OVERLAYS,
    PULL,
    PUSHED,
    REPLICAS,
    STORE_SECRET,
    URL_FILE,
    Manifests,
    Object,
    render,
)
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
    shared = URL_FILE in render(overlay).environment
    server = {"port": ours["server"]["port"]} if render(overlay).pulls else ours["server"]

    assert {key: theirs.get(key) for key in ("server", "prometheus", "store")} == {
        "server": server,
        "prometheus": ours["prometheus"],
        "store": None if shared else ours["store"],
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_site_is_read_but_not_applied(overlay: str) -> None:
    rendered = render(overlay)
    site = yaml.safe_load((K8S / overlay / "site.yaml").read_text())["data"]

    assert rendered.find("ConfigMap", "site") is None
    hosts = [rule["host"] for one in rendered.all("Ingress") for rule in one["spec"]["rules"]]
    assert hosts == ([site["host"]] if overlay in PUSHED else [])
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


def test_the_ca_certificates_of_a_memorystore_are_mounted_at_the_path_in_its_url() -> None:
    [named] = re.findall(r'valkey_ca_file = "(.*)"', (K8S.parent / "infra/gcp/valkey.tf").read_text())
    volumes = {
        one["name"]: one.get("secret", {}).get("secretName") for one in render(REPLICAS).pod["volumes"]
    }

    folders = {at for name, at in render(REPLICAS).mounts.items() if volumes.get(name) == STORE_SECRET}
    assert folders == {str(Path(named).parent)}


def test_the_stores_url_is_not_in_the_environment() -> None:
    replicas = render(REPLICAS)

    assert replicas.settings()[0].store.url == "redis://:secret@10.0.0.5:6379/0"
    assert not any("secret@" in value for value in replicas.environment.values())
    assert all("valueFrom" not in one for one in replicas.container["env"])


def test_the_claimed_volume_has_the_fields_that_the_api_server_adds() -> None:
    # Otherwise a second `kubectl apply` changes the StatefulSet, and a server-side apply conflicts.
    [claim] = render(BASE).workload["volumeClaimTemplates"]

    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert claim["spec"]["volumeMode"] == "Filesystem"
    assert claim["status"] == {"phase": "Pending"}


def changed(folder: Path, overlay: str, **added: object) -> Manifests:
    """Return the build of a copy of an overlay whose kustomization has more lists, or longer ones."""
    copied = shutil.copytree(K8S, folder / "k8s") / overlay
    path = copied / "kustomization.yaml"
    content: Object = yaml.safe_load(path.read_text())
    for key, value in added.items():
        assert isinstance(value, list)
        content[key] = [*content.get(key, []), *value]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return render(copied)


@pytest.mark.parametrize("overlay", [GKE, NGINX, REPLICAS])
def test_pull_closes_the_ingress_of_an_overlay(overlay: str, tmp_path: Path) -> None:
    built = changed(tmp_path, overlay, components=["../../components/pull"])
    # A person changes the configuration too.
    pulling = yaml.safe_load(render(PULL).configuration())
    for one in built.all("ConfigMap"):
        if "config.yaml" in one["data"]:
            here = yaml.safe_load(one["data"]["config.yaml"])
            parts = {key: pulling[key] for key in ("project_name", "pubsub", "server")}
            one["data"]["config.yaml"] = yaml.safe_dump(here | parts)

    assert problems(built) == []
    assert "8080" not in str([built.container, *built.all("Service")])
    # The metadata server is the only peer at this port.
    assert not any("8080" in str(one["spec"].get("ingress")) for one in built.all("NetworkPolicy"))


def test_the_pod_has_the_user_and_the_store_folder_of_the_image() -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    image = dict(re.findall(r"^(USER|WORKDIR) (\S+)$", dockerfile, re.MULTILINE))
    user = render(BASE).pod["securityContext"]

    assert image["USER"] == f"{user['runAsUser']}:{user['runAsGroup']}"
    assert image["WORKDIR"] == render(BASE).mounts["data"]


def test_the_memory_limit_includes_the_limit_of_the_listing_child() -> None:
    child = (Path(__file__).parents[2] / "app/gcp/compute/__main__.py").read_text()

    assert re.findall(r'"--memory-mib", type=int, default=(\d+)', child) == [str(CHILD_LIMIT_MIB)]
