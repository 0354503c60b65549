"""The exporter runs with the rendered configuration, and the rendered ingress allows only pushes."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.k8s.rendered import HEALTH, Manifests
from tests.k8s.running import Installation, nginx
from tests.support.entries import insert, preempted

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_the_exporter_serves_with_the_rendered_configuration(installation: Installation) -> None:
    path = installation.settings.prometheus.path
    pushes, metrics = installation.ports

    assert [installation.at(port, HEALTH).status_code for port in installation.ports] == [200, 200]
    assert "interruption_events_total" in installation.at(metrics, path).text
    assert installation.at(pushes, path).status_code == 404


def test_a_push_with_a_token_is_accepted(installation: Installation) -> None:
    tracked = installation.push(insert("gke-ingress"), token=installation.token)
    counted = installation.push(preempted("gke-ingress"), token=installation.token)

    assert (tracked.status_code, tracked.json()["outcome"]) == (200, "tracked")
    assert (counted.status_code, counted.json()["outcome"]) == (200, "counted")


def test_a_push_without_a_token_is_refused_by_the_exporter(installation: Installation) -> None:
    refused = installation.push(insert("gke-other"), token=None)

    assert (refused.status_code, refused.json()["reason"]) == (401, "not_authenticated")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics", "/interruptions", "/healthz", "/readyz", "/openapi.json", "/eventsandmore"),
        *("/events/%2e%2e/metrics", "/events/..%2fmetrics", "//metrics"),
    ],
)
def test_the_ingress_refuses_other_paths(installation: Installation, path: str) -> None:
    answer = installation.ask(path, token=installation.token)

    # The page is from nginx. A 404 of the exporter would be a problem document.
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html")


def test_the_ingress_refuses_another_host(installation: Installation) -> None:
    answer = installation.at(installation.front, "/events/creation")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html")


def test_a_body_that_is_too_large_is_refused_by_the_exporter(installation: Installation) -> None:
    too_large = b"x" * (installation.settings.server.max_body_bytes + 1)
    refused = installation.ask("/events/creation", too_large, token=installation.token)

    assert (refused.status_code, refused.json()["reason"]) == (413, "body_too_large")


def test_a_wider_ingress_would_allow_other_paths(installation: Installation, tmp_path: Path) -> None:
    wider = Manifests(deepcopy(installation.manifests.objects))
    wider.one("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["path"] = "/"
    with nginx(tmp_path, wider, installation.ports[0]) as front:
        answer = replace(installation, front=front).ask(HEALTH)

    assert answer.json() == {"status": "ok"}
