"""An installation on this machine: the exporter with the rendered configuration, behind nginx."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from app.settings import Settings
from tests.k8s.rendered import HEALTH, URL_FILE, Manifests
from tests.support.entries import JsonObject
from tests.support.process import LOOPBACK, Process, answers, free_port, listens
from tests.support.program import ENVIRONMENT, body_of, current_command, endpoint_of
from tests.support.redis import RedisServer
from tests.support.requirement import require

_BODY_SIZE: Final = "nginx.ingress.kubernetes.io/proxy-body-size"


@dataclass(frozen=True)
class Installation:
    """A running exporter behind nginx."""

    manifests: Manifests
    settings: Settings
    client: httpx.Client
    token: str
    ports: tuple[int, int]
    """The port for pushes, and the port for metrics."""
    front: int

    def at(self, port: int, path: str) -> httpx.Response:
        """Return the response of a port, without a host name."""
        return self.client.get(f"http://{LOOPBACK}:{port}{path}")

    def ask(self, path: str, content: bytes | None = None, *, token: str | None = None) -> httpx.Response:
        """Return the response of nginx for the host of the ingress."""
        headers = {"host": host(self.manifests)} | ({"authorization": f"Bearer {token}"} if token else {})
        method = "GET" if content is None else "POST"
        url = f"http://{LOOPBACK}:{self.front}{path}"
        return self.client.request(method, url, headers=headers, content=content)

    def push(self, entry: JsonObject, *, token: str | None) -> httpx.Response:
        """Deliver an entry as Pub/Sub does, through nginx."""
        return self.ask(f"/events/{endpoint_of(entry)}", body_of(entry), token=token)


def host(manifests: Manifests) -> str:
    """Return the host name of the ingress."""
    [name] = {rule["host"] for rule in manifests.one("Ingress")["spec"]["rules"]}
    return str(name)


@contextmanager
def store(directory: Path, manifests: Manifests) -> Iterator[str]:
    """Yield the URL of a local store of the kind in the manifests: a file or a Redis."""
    if manifests.settings()[0].store.url.startswith("sqlite:///"):
        yield f"sqlite:///{directory}/store.db"
        return
    with RedisServer(directory / "redis") as redis:
        yield redis.url


@contextmanager
def exporter(
    directory: Path,
    manifests: Manifests,
    certificates: str,
    url: str,
    pushes: int,
    metrics: int,
    **more: str,
) -> Iterator[None]:
    """Run the exporter with the mounted file. Environment variables have the differences of this machine."""
    mounted = directory / "config.yaml"
    mounted.write_text(manifests.configuration())
    here = {
        "CONFIG_PATH": str(mounted),
        "TMPDIR": str(directory),
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(pushes),
        "SIE_SERVER__DRAIN_SECONDS": "0",
        "SIE_PROMETHEUS__PORT": str(metrics),
        "SIE_PROMETHEUS__LINGER_SECONDS": "0",
        **_store(directory, manifests, url),
        "SIE_PUBSUB__CERTS_URL": certificates,
        "SIE_INVENTORY__ENABLED": "false",
        **more,
    }
    with Process(
        current_command(),
        output=directory / "exporter.log",
        ready=answers(f"http://{LOOPBACK}:{pushes}{HEALTH}"),
        env={**ENVIRONMENT, **manifests.environment, **here},
    ):
        yield


def _store(directory: Path, manifests: Manifests, url: str) -> dict[str, str]:
    """Return the variable that has the store's URL, or names the file with it, as in the manifests."""
    if URL_FILE not in manifests.environment:
        return {"SIE_STORE__URL": url}
    file = directory / "url"
    file.write_text(url)
    return {URL_FILE: str(file)}


@contextmanager
def nginx(directory: Path, manifests: Manifests, backend: int) -> Iterator[int]:
    """Run nginx with the rules of the ingress, as an ingress controller would write them. Yield its port."""
    # On Debian, nginx is in a folder that only root has in its PATH.
    program = require("nginx", shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"))
    port = free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(nginx_configuration(directory, manifests, port, backend))
    with Process(
        [program, "-e", "stderr", "-p", directory, "-c", configuration],
        output=directory / "nginx.log",
        ready=listens(port),
    ):
        yield port


def nginx_configuration(directory: Path, manifests: Manifests, port: int, backend: int) -> str:
    """Return a configuration for one process in the foreground, with 404 for paths without a rule."""
    ingress = manifests.one("Ingress")
    size = ingress["metadata"]["annotations"].get(_BODY_SIZE, "0")
    folders = "".join(
        f"    {kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    proxied = f"proxy_pass http://{LOOPBACK}:{backend};"
    servers = "".join(
        f"    server {{ listen {LOOPBACK}:{port}; server_name {rule['host']};\n"
        + "".join(f"        location {match} {{ {does} }}\n" for match, does in routes(rule, proxied).items())
        + "    }\n"
        for rule in ingress["spec"]["rules"]
    )
    return (
        f"daemon off;\nmaster_process off;\npid {directory}/nginx.pid;\nevents {{}}\nhttp {{\n{folders}"
        f"    access_log off;\n    client_max_body_size {size};\n    proxy_http_version 1.1;\n"
        f"    server {{ listen {LOOPBACK}:{port} default_server; return 404; }}\n{servers}}}\n"
    )


def routes(rule: JsonObject, proxied: str) -> dict[str, str]:
    """Return the action of nginx for each location of a rule."""
    matches = [match for path in rule["http"]["paths"] for match in locations(path)]
    return {"/": "return 404;"} | dict.fromkeys(matches, proxied)


def locations(path: JsonObject) -> list[str]:
    """Return the nginx locations for a path of an ingress. A prefix matches whole elements of a path.

    https://kubernetes.io/docs/concepts/services-networking/ingress/#path-types
    """
    if path["pathType"] == "Exact":
        return [f"= {path['path']}"]
    bare = path["path"].rstrip("/")
    return [f"{bare}/", *([f"= {bare}"] if bare else [])]
