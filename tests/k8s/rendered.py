"""The manifests as `kubectl kustomize` renders them, and what one asks of them."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from app.settings import Settings, load_settings
from tests.support.requirement import require

Object: TypeAlias = dict[str, Any]

K8S: Final = Path(__file__).parents[2] / "k8s"
BASE: Final = "base"
GKE: Final = "overlays/gke-managed-prometheus"
NGINX: Final = "overlays/nginx-prometheus-operator"
REPLICAS: Final = "overlays/gke-replicas"
OVERLAYS: Final = (GKE, NGINX, REPLICAS)

APPLICATION: Final = "spot-interruption-exporter"
HEALTH: Final = "/healthz"
STORE_SECRET: Final = "spot-interruption-exporter-store"  # noqa: S105  # its name
SECRETS: Final[Mapping[str, Mapping[str, str]]] = {STORE_SECRET: {"url": "redis://:secret@10.0.0.5:6379/0"}}
"""What is made by hand before an installation, by name."""


def render(name: str | Path) -> "Manifests":
    """What a kustomization, by default one below `k8s/`, builds; each call gives objects of its own."""
    return Manifests(deepcopy(_built(name)))


@cache
def _built(name: str | Path) -> list[Object]:
    kubectl = require("kubectl", shutil.which("kubectl"))
    done = subprocess.run([kubectl, "kustomize", K8S / name], capture_output=True, text=True, check=False)
    # A warning is a field that the next version takes away.
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


class Manifests:
    """The objects of one build."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = objects

    def all(self, kind: str) -> list[Object]:
        """All objects of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def find(self, kind: str, name: str) -> Object | None:
        """The object of a kind and name."""
        found = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found[0] if found else None

    def one(self, kind: str) -> Object:
        """The only object of a kind."""
        [found] = self.all(kind)
        return found

    @property
    def workload(self) -> Object:
        """What the StatefulSet specifies."""
        return dict(self.one("StatefulSet")["spec"])

    @property
    def pod(self) -> Object:
        """What the pod specifies."""
        return dict(self.workload["template"]["spec"])

    @property
    def pod_labels(self) -> Mapping[str, str]:
        """The pod's labels."""
        return dict(self.workload["template"]["metadata"]["labels"])

    @property
    def container(self) -> Object:
        """The pod's only container."""
        [container] = self.pod["containers"]
        return dict(container)

    @property
    def environment(self) -> Mapping[str, str]:
        """The container's own variables. Raises LookupError for a Secret that nobody has made."""
        return {one["name"]: _value(one) for one in self.container["env"]}

    @property
    def mounts(self) -> Mapping[str, str]:
        """Where each volume is mounted."""
        return {one["name"]: one["mountPath"] for one in self.container["volumeMounts"]}

    def port(self, name_or_number: str | int) -> int | None:
        """The number of a port of the container's; None where it has no such port."""
        ports = self.container["ports"]
        found = [one for one in ports if name_or_number in (one["name"], one["containerPort"])]
        return found[0]["containerPort"] if found else None

    def configuration(self) -> str:
        """The text of the file that the exporter finds at `$CONFIG_PATH`. Raises LookupError."""
        path = Path(self.environment["CONFIG_PATH"])
        [volume] = [name for name, at in self.mounts.items() if Path(at) == path.parent]
        [mounted] = [one["configMap"]["name"] for one in self.pod["volumes"] if one["name"] == volume]
        found = self.find("ConfigMap", mounted)
        if found is None:
            raise LookupError(f"there is no ConfigMap {mounted}")
        return str(found["data"][path.name])

    def settings(self) -> tuple[Settings, tuple[str, ...]]:
        """What the exporter makes of it, and its warnings. Raises ConfigurationError."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "config.yaml"
            path.write_text(self.configuration())
            return load_settings(path, self.environment)

    def backends(self) -> list[tuple[str, Object]]:
        """Each path of the ingress with the rule that has it."""
        return [
            (path["path"], path | {"host": rule.get("host")})
            for rule in self.one("Ingress")["spec"]["rules"]
            for path in rule["http"]["paths"]
        ]


def _value(variable: Object) -> str:
    if "value" in variable:
        return str(variable["value"])
    asked = variable["valueFrom"]["secretKeyRef"]
    try:
        return SECRETS[asked["name"]][asked["key"]]
    except KeyError:
        raise LookupError(f"there is no Secret {asked['name']} with {asked['key']}") from None


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector, or a node selector's term, takes what has these labels.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
    """
    wanted = selector.get("matchLabels", {})
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        _satisfies(expression, labels) for expression in selector.get("matchExpressions", [])
    )


def _satisfies(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[expression["operator"]]
