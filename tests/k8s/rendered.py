"""The manifests as `kubectl kustomize` renders them, with access to their parts."""

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
PULL: Final = "overlays/gke-pull"
PUSHED: Final = (GKE, NGINX, REPLICAS)
"""The overlays with an ingress."""
OVERLAYS: Final = (*PUSHED, PULL)

APPLICATION: Final = "spot-interruption-exporter"
HEALTH: Final = "/healthz"
STORE_SECRET: Final = "spot-interruption-exporter-store"  # noqa: S105  # its name
URL_FILE: Final = "SIE_STORE__URL_FILE"
SECRETS: Final[Mapping[str, Mapping[str, str]]] = {STORE_SECRET: {"url": "redis://:secret@10.0.0.5:6379/0"}}
"""Secrets that a person creates before an installation, by name."""


def render(name: str | Path) -> "Manifests":
    """Return new copies of the objects that a kustomization builds; a relative name is below `k8s/`."""
    return Manifests(deepcopy(_built(name)))


@cache
def _built(name: str | Path) -> list[Object]:
    kubectl = require("kubectl", shutil.which("kubectl"))
    done = subprocess.run([kubectl, "kustomize", K8S / name], capture_output=True, text=True, check=False)
    # A warning is about a field that the next version removes.
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


class Manifests:
    """The objects of one build."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = objects

    def all(self, kind: str) -> list[Object]:
        """Return all objects of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def find(self, kind: str, name: str) -> Object | None:
        """Return the object with this kind and name; None if there is none."""
        found = [one for one in self.all(kind) if one["metadata"]["name"] == name]
        return found[0] if found else None

    def one(self, kind: str) -> Object:
        """Return the only object of a kind."""
        [found] = self.all(kind)
        return found

    @property
    def workload(self) -> Object:
        """The spec of the StatefulSet."""
        return dict(self.one("StatefulSet")["spec"])

    @property
    def pod(self) -> Object:
        """The spec of the pod."""
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
        """The variables of the container."""
        return {one["name"]: one["value"] for one in self.container["env"]}

    @property
    def mounts(self) -> Mapping[str, str]:
        """The mount path of each volume."""
        return {one["name"]: one["mountPath"] for one in self.container["volumeMounts"]}

    def port(self, name_or_number: str | int) -> int | None:
        """Return the number of a port of the container; None if it has no such port."""
        ports = self.container["ports"]
        found = [one for one in ports if name_or_number in (one["name"], one["containerPort"])]
        return found[0]["containerPort"] if found else None

    def configuration(self) -> str:
        """Return the text of the file at `$CONFIG_PATH`. Raises LookupError."""
        path = Path(self.environment["CONFIG_PATH"])
        [volume] = [name for name, at in self.mounts.items() if Path(at) == path.parent]
        [mounted] = [one["configMap"]["name"] for one in self.pod["volumes"] if one["name"] == volume]
        found = self.find("ConfigMap", mounted)
        if found is None:
            raise LookupError(f"there is no ConfigMap {mounted}")
        return str(found["data"][path.name])

    def secret(self, path: str) -> str:
        """Return the text of a file of a mounted Secret. Raises LookupError."""
        folder, _, key = path.rpartition("/")
        mounted = [
            one["secret"]["secretName"]
            for one in self.pod["volumes"]
            if "secret" in one and self.mounts.get(one["name"]) == folder
        ]
        try:
            [name] = mounted
            return SECRETS[name][key]
        except (KeyError, ValueError):
            raise LookupError(f"no Secret is mounted that has {path}") from None

    @property
    def pulls(self) -> bool:
        """True if the exporter pulls its messages."""
        return self.settings()[0].pubsub.delivery == "pull"

    def settings(self) -> tuple[Settings, tuple[str, ...]]:
        """Return the exporter's settings from this file, and its warnings.

        Raises ConfigurationError, and LookupError for a missing Secret.
        """
        environment = self.environment
        url = self.secret(environment[URL_FILE]) if URL_FILE in environment else None
        return _loaded(self.configuration(), url, frozenset(environment.items()))

    def backends(self) -> list[tuple[str, Object]]:
        """Return each path of the ingress, with its rule."""
        return [
            (path["path"], path | {"host": rule.get("host")})
            for rule in self.one("Ingress")["spec"]["rules"]
            for path in rule["http"]["paths"]
        ]


@cache
def _loaded(
    configuration: str, url: str | None, environment: frozenset[tuple[str, str]]
) -> tuple[Settings, tuple[str, ...]]:
    """Load the settings from files with these texts. The variable of the URL's file names such a file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.yaml"
        path.write_text(configuration)
        variables = dict(environment)
        if url is not None:
            file = Path(directory) / "url"
            file.write_text(url)
            variables[URL_FILE] = str(file)
        return load_settings(path, variables)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return True if a label selector, or a term of a node selector, matches the labels.

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
