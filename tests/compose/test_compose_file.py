"""The compose files are valid, pinned and confined, and agree with the files that they mount."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from tests.compose.composition import BASE, OVERRIDE, PLAIN, REPLICAS, ROOT, Composition

BUILT = "spot-interruption-exporter:local"
PROVISIONING = "/etc/grafana/provisioning"
each_composition = pytest.mark.parametrize("compose", [PLAIN, REPLICAS], ids=str)
each_service = pytest.mark.parametrize(
    ("compose", "service"),
    [
        pytest.param(compose, service, id=f"{compose}-{service}")
        for compose in (PLAIN, REPLICAS)
        for service in compose.services
    ],
)


def test_the_files_conform_to_the_compose_specification(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    merged = tmp_path / "merged.json"
    merged.write_text(json.dumps(REPLICAS.content))
    checked = subprocess.run(
        [*check, BASE, OVERRIDE, merged],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_service
def test_an_image_is_built_here_or_pinned_to_a_version(compose: Composition, service: str) -> None:
    described = compose.services[service]

    if "build" in described:
        assert described["image"] == BUILT
    else:
        assert re.search(r":v?\d+\.\d+\.\d+(-emulators|-alpine)?$", described["image"])


@each_service
def test_a_port_is_published_on_loopback_only(compose: Composition, service: str) -> None:
    ports = compose.services[service].get("ports", ())

    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


@each_composition
def test_published_ports_are_distinct(compose: Composition) -> None:
    ports = [
        port.split(":")[1] for described in compose.services.values() for port in described.get("ports", ())
    ]

    assert sorted(set(ports)) == sorted(ports)


@each_service
def test_a_service_can_write_only_its_volumes_and_gains_no_privileges(
    compose: Composition, service: str
) -> None:
    described = compose.services[service]

    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert not described.keys() & {"privileged", "cap_add", "network_mode", "pid"}


@each_service
def test_a_mounted_file_exists_and_a_mounted_volume_is_declared(compose: Composition, service: str) -> None:
    for volume in compose.services[service].get("volumes", ()):
        source, _, *mode = volume.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in compose.content["volumes"]


@each_service
def test_a_service_waits_for_a_health_check_or_the_end_of_a_command(
    compose: Composition, service: str
) -> None:
    for other, wait in compose.services[service].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert compose.services[other]["healthcheck"]["test"][0] == "CMD"
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert compose.services[other]["restart"] == "no"


@each_service
def test_an_address_in_the_environment_is_a_listening_service(compose: Composition, service: str) -> None:
    for value in compose.services[service].get("environment", {}).values():
        for name, port in re.findall(r"(?:^|//)([a-z][a-z0-9-]*):(\d+)", value):
            assert int(port) in compose.listening(name)


@each_composition
def test_an_exporter_listens_on_its_configured_ports(compose: Composition) -> None:
    ports = {configured(compose, "server.port"), configured(compose, "prometheus.port")}

    assert [compose.listening(name) for name in compose.exporters] == [ports] * len(compose.exporters)


def test_the_store_is_in_a_volume_that_the_image_can_write() -> None:
    volumes = PLAIN.services["exporter"]["volumes"]
    [folder] = [volume.removeprefix("exporter:") for volume in volumes if volume.startswith("exporter:")]

    assert configured(PLAIN, "store.url") == f"sqlite:///{folder}/store.db"
    assert f"\nWORKDIR {folder}\n" in (ROOT / "Dockerfile").read_text()


def test_replicas_have_distinct_names_and_share_a_durable_store() -> None:
    command = REPLICAS.services["valkey"]["command"]

    assert len(REPLICAS.exporters) == 2
    for name in REPLICAS.exporters:
        assert configured(REPLICAS, "store.url", name) == "redis://valkey:6379/0"
        assert configured(REPLICAS, "store.replica", name) == name
    assert dict(zip(command[1::2], command[2::2], strict=True)) == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--maxmemory-policy": "noeviction",
    }
    assert REPLICAS.services["valkey"]["volumes"] == ["valkey:/data"]


def test_replicas_differ_only_in_name_and_published_port() -> None:
    first, second = (REPLICAS.services[name] for name in REPLICAS.exporters)
    own = {"environment", "volumes", "ports", "expose"}

    assert {key: first[key] for key in first.keys() - own} == {
        key: second[key] for key in second.keys() - own
    }
    assert first["environment"] | {"SIE_STORE__REPLICA": "exporter-2"} == second["environment"]
    assert second["volumes"] == [volume for volume in first["volumes"] if volume.startswith("./")]


def test_the_balancer_forwards_only_pushes_and_health_checks_to_all_replicas() -> None:
    configuration = REPLICAS.mounted("balancer", "/etc/nginx/nginx.conf").read_text()
    port = configured(REPLICAS, "server.port")

    assert re.findall(r"server (\S+):(\d+) ", configuration) == [
        (name, str(port)) for name in REPLICAS.exporters
    ]
    assert re.findall(r"location (.*) {", configuration) == ["/events/", "= /healthz", "/"]
    assert {int(found) for found in re.findall(r"listen (\d+);", configuration)} == REPLICAS.listening(
        "balancer"
    )
    assert REPLICAS.services["topics"]["environment"]["EXPORTER_URL"] == "http://balancer:8080"
    assert REPLICAS.services["balancer"]["depends_on"].keys() == set(REPLICAS.exporters)


@each_composition
def test_the_grace_period_is_short_and_longer_than_the_hold(compose: Composition) -> None:
    interval = prometheus_config(compose)["global"]["scrape_interval"]

    assert configured(compose, "prometheus.hold_seconds") == 2 * int(interval.removesuffix("s"))
    hold, grace = (
        configured(compose, key) for key in ("prometheus.hold_seconds", "attribution.grace_seconds")
    )
    assert hold < grace <= 30


@each_composition
def test_prometheus_scrapes_each_metrics_listener_and_reads_the_rules(compose: Composition) -> None:
    [job] = prometheus_config(compose)["scrape_configs"]
    [rules] = prometheus_config(compose)["rule_files"]
    [file] = job["file_sd_configs"][0]["files"]
    targets = yaml.safe_load(compose.mounted("prometheus", file).read_text())
    port = configured(compose, "prometheus.port")

    assert [group["targets"] for group in targets] == [[f"{name}:{port}"] for name in compose.exporters]
    scraped = compose.services["samples"]["environment"]["METRICS_URLS"].split()
    assert scraped == [f"http://{name}:{port}/metrics" for name in compose.exporters]
    assert compose.mounted("prometheus", rules).samefile(ROOT / "k8s/monitoring/rules.yaml")


def test_a_replicas_instance_label_is_its_name() -> None:
    targets = yaml.safe_load(REPLICAS.mounted("prometheus", "/etc/prometheus/targets.yaml").read_text())

    assert [group["labels"] for group in targets] == [{"instance": name} for name in REPLICAS.exporters]


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    providers = provisioned("dashboards/spot-interruption-exporter.yaml")["providers"]
    sources = provisioned("datasources/prometheus.yaml")["datasources"]
    home = PLAIN.services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert [str(Path(home).parent)] == [provider["options"]["path"] for provider in providers]
    assert PLAIN.mounted("grafana", home).samefile(ROOT / "k8s/monitoring/dashboard.json")
    [port] = PLAIN.listening("prometheus")
    assert [source["url"] for source in sources] == [f"http://prometheus:{port}"]


def configured(compose: Composition, key: str, service: str = "exporter") -> Any:  # noqa: ANN401  # a setting's own type
    environment = compose.services[service]["environment"]
    value: Any = load_settings(compose.mounted(service, environment["CONFIG_PATH"]), environment)[0]
    for name in key.split("."):
        value = getattr(value, name)
    return value


def prometheus_config(compose: Composition) -> dict[str, Any]:
    path = compose.mounted("prometheus", "/etc/prometheus/prometheus.yml")
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def provisioned(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(PLAIN.mounted("grafana", f"{PROVISIONING}/{name}").read_text())
    return content
