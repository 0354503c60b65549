"""The overlays and the documented steps against a real API server with restricted Pod Security.

They are skipped, in CI too, until `python -m tests.k8s.servers` has built the servers.
"""

import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.docs.checkout import copied, shell
from tests.k8s.cluster import Cluster, cluster
from tests.k8s.rendered import APPLICATION, GKE, K8S, NGINX, OVERLAYS, PULL, REPLICAS, Object, render
from tests.support.docs import DOCS, PAGES, blocks

MARK: Final = "API server"
"""The mark of the commands that these tests run."""
REFERENCE: Final = K8S / "README.md"
OPERATIONS: Final = DOCS / "operations.md"
DEPLOY: Final = DOCS / "deploy.md"
INGRESS_CLASS: Final = (
    'Warning: annotation "kubernetes.io/ingress.class" is deprecated, '
    "please use 'spec.ingressClassName' instead\n"
)
POD: Final = f"{APPLICATION}-0"
CLAIM: Final = f"data-{POD}"
DISK: Final = {
    "apiVersion": "v1",
    "kind": "PersistentVolume",
    "metadata": {"name": "disk"},
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "10Gi"},
        "storageClassName": "standard",
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": "/nowhere"},
    },
}


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def empty(api_server: Cluster) -> Iterator[Cluster]:
    """A cluster without the namespace, before the test and after it."""
    yield api_server
    api_server.must("delete", "namespace", APPLICATION, "--ignore-not-found")
    api_server.must("delete", "persistentvolumes", "--all")


def apply(on: Cluster, *words: str | Path) -> tuple[dict[str, str], str]:
    """Apply manifests; return what became of each object, and the warnings."""
    done = on.kubectl("apply", *words)
    assert done.returncode == 0, done.stderr
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_second_apply_changes_nothing_and_a_server_side_apply_has_no_conflict(
    overlay: str, empty: Cluster
) -> None:
    # Pod Security would warn of a pod template that is not restricted.
    warned = INGRESS_CLASS if overlay in (GKE, REPLICAS) else ""

    first, warnings = apply(empty, "-k", K8S / overlay)
    assert (set(first.values()), warnings) == ({"created"}, warned)
    assert apply(empty, "-k", K8S / overlay) == (second_time(first), "")
    assert apply(empty, "--server-side", "-k", K8S / overlay) == (
        dict.fromkeys(first, "serverside-applied"),
        "",
    )
    for budget in empty.get("-n", APPLICATION, "poddisruptionbudgets")["items"]:
        assert budget["metadata"]["generation"] == 1


def second_time(first: dict[str, str]) -> dict[str, str]:
    """Return what a second apply prints for the objects of the first."""
    # kubectl always sends the selector of a budget, because its patch strategy is `replace`.
    return {name: "configured" if name.startswith("poddisruptionbudget.") else "unchanged" for name in first}


def test_the_namespace_refuses_a_pod_with_more_rights(empty: Cluster) -> None:
    apply(empty, "-k", K8S / GKE)
    pod = alone(render(GKE).workload["template"])
    empty.must("create", "-f", "-", stdin=pod)
    for change in ({"runAsNonRoot": False}, {"seccompProfile": {"type": "Unconfined"}}):
        other = deepcopy(pod)
        other["metadata"]["name"] = "other"
        other["spec"]["securityContext"] |= change

        refused = empty.kubectl("create", "-f", "-", stdin=other)
        assert 'violates PodSecurity "restricted:latest"' in refused.stderr


def alone(template: Object) -> Object:
    """Return a pod from the template of a StatefulSet."""
    spec = deepcopy(template["spec"])
    spec["volumes"].append({"name": "data", "emptyDir": {}})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", "namespace": APPLICATION},
        "spec": spec,
    }


def steps(page: Path, heading: str) -> list[str]:
    """Return the commands below a heading that run against the API server, at least one."""
    found = marked_below(page, heading)
    assert found, heading
    return found


def marked_below(page: Path, heading: str) -> list[str]:
    """Return the commands with the mark below a heading; none if the page does not have it."""
    _, _, below = page.read_text().partition(f"\n{heading}\n")
    section = re.split(rf"^#{{2,{heading.count('#')}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"<!-- {MARK} -->\n```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


class Site:
    """A reader's checkout with an overlay `site`, and the cluster that its commands change."""

    def __init__(self, checkout: Path, on: Cluster) -> None:
        self.checkout = checkout
        self.on = on
        self.folder = checkout / "k8s/overlays/site"

    def take(self, overlay: str, **added: object) -> None:
        """Make the overlay `site` a copy of an example, with more keys in its kustomization."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(K8S / overlay, self.folder)
        path = self.folder / "kustomization.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | added, sort_keys=False))

    def run(self, step: str) -> str:
        """Run a documented step; return what it prints."""
        environment = {**self.on.environment, "IMAGE": "registry.example.com/spot-interruption-exporter"}
        done = shell(step, self.checkout, environment)
        assert (done.returncode, done.stderr.replace(INGRESS_CLASS, "")) == (0, "")
        return done.stdout

    def bind_the_disk(self) -> None:
        """Give the claim a disk, as the storage class of a cloud would."""
        self.on.must("create", "-f", "-", stdin=DISK)
        self.on.must(
            *("-n", APPLICATION, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=200s"),
            f"persistentvolumeclaim/{CLAIM}",
        )

    def wait_for_the_rollout(self) -> None:
        """Return when all pods are of the newest revision and ready."""
        self.on.must("-n", APPLICATION, "rollout", "status", f"statefulset/{APPLICATION}", "--timeout=200s")

    def apply(self) -> None:
        """Apply the overlay, as each path of `docs/deploy.md` does."""
        [step] = steps(DEPLOY, "### A6. Apply")
        self.run(step)

    def pods(self) -> dict[str, str]:
        """Return the uid of each pod."""
        found = self.on.get("-n", APPLICATION, "pods")["items"]
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}


@pytest.fixture
def site(empty: Cluster, tmp_path: Path) -> Site:
    return Site(copied(tmp_path), empty)


@pytest.mark.parametrize(
    ("overlay", "heading"),
    [(GKE, "### A6. Apply"), (NGINX, "### B6. Apply"), (REPLICAS, "### C7. Apply"), (PULL, "### D4. Apply")],
)
def test_a_path_applies_its_overlay_and_removes_it(overlay: str, heading: str, site: Site) -> None:
    site.take(overlay)
    # Path C creates the namespace and a Secret before.
    for step in steps(DEPLOY, "### C6. Store") if overlay == REPLICAS else []:
        site.run(step)
    [apply_it] = steps(DEPLOY, heading)
    [remove_it] = steps(DEPLOY, "## Remove it")

    site.run(apply_it)
    assert len(site.pods()) == render(overlay).workload["replicas"]
    site.run(remove_it)
    gone = site.on.kubectl("get", "namespace", APPLICATION)
    assert "not found" in gone.stderr


def test_a_larger_disk_needs_no_restart(site: Site) -> None:
    first, second = steps(REFERENCE, "## A larger disk")
    [larger] = [yaml.safe_load(one.code) for one in blocks(REFERENCE, "yaml") if one.mark == "larger disk"]
    site.take(GKE)
    site.apply()
    site.bind_the_disk()
    before = site.pods()

    site.run(first)
    site.take(GKE, **larger)
    # The API server refuses a change of the claim in the StatefulSet.
    refused = site.on.kubectl("apply", "-k", site.folder)
    assert "updates to statefulset spec for fields other than" in refused.stderr
    site.run(second)

    site.wait_for_the_rollout()
    assert site.pods() == before
    [claim] = site.on.get("-n", APPLICATION, "persistentvolumeclaims")["items"]
    [template] = site.on.get("-n", APPLICATION, "statefulset", APPLICATION)["spec"]["volumeClaimTemplates"]
    for one in (claim, template):
        assert one["spec"]["resources"]["requests"]["storage"] == "20Gi"


def test_one_replica_becomes_several_and_one_again_with_the_same_disk(site: Site) -> None:
    [to_several] = steps(REFERENCE, "### From one replica to several")
    remove, to_one = steps(REFERENCE, "### From several replicas to one")
    site.take(GKE)
    site.apply()
    disk = site.on.get("-n", APPLICATION, "persistentvolumeclaim", CLAIM)["metadata"]["uid"]

    site.take(REPLICAS)
    site.run(to_several)
    site.wait_for_the_rollout()
    assert sorted(site.pods()) == [f"{APPLICATION}-{number}" for number in range(3)]

    site.run(remove)
    site.take(GKE)
    site.run(to_one)
    site.wait_for_the_rollout()
    assert list(site.pods()) == [POD]
    assert site.on.get("-n", APPLICATION, "persistentvolumeclaim", CLAIM)["metadata"]["uid"] == disk


def test_the_pod_that_restores_has_the_disk_to_itself(site: Site) -> None:
    stop, mount, start = steps(OPERATIONS, "## Restore a backup")
    site.take(GKE)
    site.apply()

    site.run(stop)
    site.run(mount)
    assert list(site.pods()) == ["restore"]
    site.run(start)
    site.wait_for_the_rollout()
    assert list(site.pods()) == [POD]


def test_a_changed_secret_is_read_after_a_restart(site: Site) -> None:
    [restart] = steps(OPERATIONS, "## Change the configuration")
    site.take(REPLICAS)
    site.apply()
    before = site.pods()

    site.run(restart)
    site.wait_for_the_rollout()
    assert site.pods().keys() == before.keys()
    assert not set(site.pods().values()) & set(before.values())


def test_every_command_with_the_mark_is_run() -> None:
    headings = set(re.findall(r'"(#{2,3} [^"]+)"', Path(__file__).read_text()))
    pages = (REFERENCE, OPERATIONS, DEPLOY)
    run = {step for page in pages for heading in headings for step in marked_below(page, heading)}

    assert {block.code for page in PAGES for block in blocks(page, "sh") if block.mark == MARK} == run
