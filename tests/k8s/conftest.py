from collections.abc import Iterator

import httpx
import pytest

from app.demo.issuer import Issuer, IssuerServer
from tests.k8s.rendered import PUSHED, render
from tests.k8s.running import Installation, exporter, nginx, store
from tests.support.process import free_port


@pytest.fixture(scope="module", params=PUSHED)
def installation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Run an installation of each overlay with an ingress, shared by the tests of a module."""
    directory = tmp_path_factory.mktemp("installation")
    manifests = render(request.param)
    settings, _ = manifests.settings()
    issuer = Issuer()
    ports = free_port(), free_port()
    with (
        IssuerServer(issuer) as certificates,
        store(directory, manifests) as url,
        exporter(directory, manifests, certificates.url, url, *ports),
        nginx(directory, manifests, ports[0]) as front,
        httpx.Client(trust_env=False, verify=False, timeout=30) as client,  # noqa: S501  # nothing speaks TLS
    ):
        token = issuer.token(
            audience=settings.pubsub.audience[0], email=settings.pubsub.service_account_email[0]
        )
        yield Installation(manifests, settings, client, token, ports, front)
