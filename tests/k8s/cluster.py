"""A real API server with its etcd and some controllers, on loopback.

There is no node, so no container ever runs. A thread reports each pod as ready, as a kubelet would.
"""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.k8s.custom_kinds import MODELS
from tests.k8s.rendered import Object
from tests.k8s.servers import definitions, servers
from tests.support.process import LOOPBACK, Process, answers, eventually, free_port

_TOKEN: Final = "of-the-administrator"  # noqa: S105  # of a server on loopback
_CONTROLLERS: Final = (
    "garbage-collector-controller",
    "namespace-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "serviceaccount-controller",
    "statefulset-controller",
)
_READY: Final = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
_STORAGE: Final = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "example.com/none",
    "allowVolumeExpansion": True,
}
"""A default class whose disks can grow, as GKE has it. Nothing provides the disks."""


class Cluster:
    """A running API server."""

    def __init__(self, programs: Path, configuration: Path, api: httpx.Client) -> None:
        self.api = api
        self.environment: Final[Mapping[str, str]] = {
            "HOME": str(configuration.parent),
            "KUBECONFIG": str(configuration),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        }
        """The variables with which `kubectl` uses this cluster."""

    def kubectl(self, *words: str | Path, stdin: object = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl; `stdin` is an object for `-f -`."""
        return subprocess.run(
            ["kubectl", *words],
            env=self.environment,
            input=None if stdin is None else yaml.safe_dump(stdin),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def must(self, *words: str | Path, stdin: object = None) -> str:
        """Run kubectl, which must succeed without a warning; return what it prints."""
        done = self.kubectl(*words, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def get(self, *words: str) -> Object:
        """Return an object as the API server has it, or a list."""
        found: Object = yaml.safe_load(self.must("get", *words, "--output=yaml"))
        return found

    def report_pods_ready(self) -> None:
        """Report each pod as ready that is not, as a kubelet would."""
        for pod in self.api.get("/api/v1/pods").raise_for_status().json()["items"]:
            if "conditions" not in pod["status"] or pod["status"].get("phase") != "Running":
                metadata = pod["metadata"]
                self.api.patch(
                    f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status",
                    json={
                        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
                    },
                    headers={"content-type": "application/merge-patch+json"},
                )


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Run a new, empty cluster that knows the custom kinds of the manifests.

    Skips the test if the programs are missing.
    """
    programs = servers()
    client_port, peer_port, port = free_port(), free_port(), free_port()
    etcd = [f"http://{LOOPBACK}:{number}" for number in (client_port, peer_port)]
    key = _private_key(directory)
    configuration = _configuration(directory, port)
    (directory / "tokens.csv").write_text(f"{_TOKEN},administrator,administrator,system:masters\n")
    with ExitStack() as stack:
        api = stack.enter_context(_api(f"https://{LOOPBACK}:{port}"))
        stack.enter_context(
            Process(
                [
                    *(programs / "etcd", "--data-dir", directory / "etcd"),
                    *("--listen-client-urls", etcd[0], "--advertise-client-urls", etcd[0]),
                    *("--listen-peer-urls", etcd[1], "--initial-advertise-peer-urls", etcd[1]),
                    *("--initial-cluster", f"default={etcd[1]}", "--unsafe-no-fsync"),
                ],
                output=directory / "etcd.log",
                ready=answers(f"{etcd[0]}/health"),
            )
        )
        stack.enter_context(
            Process(
                [
                    *(programs / "kube-apiserver", "--etcd-servers", etcd[0]),
                    *("--bind-address", LOOPBACK, "--secure-port", str(port)),
                    *("--cert-dir", directory / "certificates", "--endpoint-reconciler-type", "none"),
                    *("--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC"),
                    *("--token-auth-file", directory / "tokens.csv"),
                    *("--service-account-issuer", "https://kubernetes.default.svc"),
                    *("--service-account-key-file", key, "--service-account-signing-key-file", key),
                ],
                output=directory / "kube-apiserver.log",
                ready=lambda: _is_ready(api),
                within=120,
            )
        )
        stack.enter_context(
            Process(
                [
                    *(programs / "kube-controller-manager", "--kubeconfig", configuration),
                    *("--bind-address", LOOPBACK, "--secure-port", "0", "--leader-elect=false"),
                    *("--controllers", ",".join(_CONTROLLERS), "--cert-dir", directory / "certificates"),
                ],
                output=directory / "kube-controller-manager.log",
                ready=lambda: True,
            )
        )
        made = Cluster(programs, configuration, api)
        _define_custom_kinds(made)
        made.must("create", "-f", "-", stdin=_STORAGE)
        stack.enter_context(_every_pod_ready(made))
        yield made


def _api(url: str) -> httpx.Client:
    # The certificate is the server's own.
    return httpx.Client(
        base_url=url,
        headers={"authorization": f"Bearer {_TOKEN}"},
        verify=False,  # noqa: S501
        trust_env=False,
        timeout=60,
    )


@contextmanager
def _every_pod_ready(made: Cluster) -> Iterator[None]:
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.2):
            made.report_pods_ready()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run)
        try:
            yield
        finally:
            ended.set()
        running.result()


def _private_key(directory: Path) -> Path:
    path = directory / "service-accounts.pem"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return path


def _configuration(directory: Path, port: int) -> Path:
    """Write the file that `KUBECONFIG` names."""
    path = directory / "kubeconfig"
    server = {"server": f"https://{LOOPBACK}:{port}", "insecure-skip-tls-verify": True}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "test", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def _is_ready(api: httpx.Client) -> bool:
    try:
        return api.get("/readyz").is_success
    except httpx.TransportError:
        return False


def _define_custom_kinds(made: Cluster) -> None:
    """Define each custom kind: as its project does if the cache has the definition, else with any fields."""
    known = {(one["spec"]["group"], one["spec"]["names"]["kind"]): one for one in definitions()}
    wanted = []
    for version, kind in MODELS:
        group, _, number = version.partition("/")
        wanted.append(known.get((group, kind)) or _open_definition(group, number, kind))
    listed = {"apiVersion": "v1", "kind": "List", "items": wanted}
    made.must("create", "-f", "-", stdin=listed)
    eventually(lambda: _are_established(made.api), within=60, what="the custom kinds are established")


def _are_established(api: httpx.Client) -> bool:
    # `kubectl wait` fails for a definition that has no conditions yet.
    found = api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").raise_for_status().json()
    return all(
        {"Established": "True"}.items()
        <= {each["type"]: each["status"] for each in one.get("status", {}).get("conditions") or []}.items()
        for one in found["items"]
    )


def _open_definition(group: str, version: str, kind: str) -> Object:
    plural = kind.lower().removesuffix("s") + "s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural},
            "scope": "Namespaced",
            "versions": [
                {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }
