"""docker-compose.yaml by itself: well formed, pinned, confined, and in step with the files that it mounts."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import load_settings
from tests.compose.topology import COMPOSE, ROOT, SERVICES, mounted

BUILT = "spot-interruption-exporter:local"
PROVISIONING = "/etc/grafana/provisioning"
each_service = pytest.mark.parametrize("service", SERVICES)


def test_it_is_what_the_compose_specification_allows() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run(
        [*check, ROOT / "docker-compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@each_service
def test_an_image_is_built_here_or_pinned_to_a_version(service: str) -> None:
    described = SERVICES[service]

    if "build" in described:
        assert described["image"] == BUILT
    else:
        assert re.search(r":v?\d+\.\d+\.\d+(-emulators)?$", described["image"])


@each_service
def test_a_service_is_reached_from_this_machine_only(service: str) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in SERVICES[service].get("ports", ()))


@each_service
def test_a_service_may_write_its_volumes_only_and_gains_no_privileges(service: str) -> None:
    described = SERVICES[service]

    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert not described.keys() & {"privileged", "cap_add", "network_mode", "pid"}


@each_service
def test_what_a_service_mounts_is_there(service: str) -> None:
    for volume in SERVICES[service].get("volumes", ()):
        source, _, *mode = volume.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


@each_service
def test_what_a_service_waits_for_can_be_told(service: str) -> None:
    for other, wait in SERVICES[service].get("depends_on", {}).items():
        if wait["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


@each_service
def test_an_address_in_the_environment_is_a_listening_service(service: str) -> None:
    for value in SERVICES[service].get("environment", {}).values():
        for name, port in re.findall(r"(?:^|//)([a-z]+):(\d+)", value):
            assert int(port) in published(name)


def test_the_exporters_ports_are_the_configured_ones() -> None:
    assert published("exporter") == {configured("server.port"), configured("prometheus.port")}


def test_the_exporters_store_is_in_its_volume_where_the_image_lets_it_write() -> None:
    [volume] = [volume for volume in SERVICES["exporter"]["volumes"] if volume.startswith("exporter:")]
    folder = volume.removeprefix("exporter:")

    assert configured("store.url") == f"sqlite:///{folder}/store.db"
    assert f"\nWORKDIR {folder}\n" in (ROOT / "Dockerfile").read_text()


def test_the_grace_is_short_and_longer_than_a_new_counter_is_held() -> None:
    interval = prometheus_config()["global"]["scrape_interval"]

    assert configured("prometheus.hold_seconds") == 2 * int(interval.removesuffix("s"))
    assert configured("prometheus.hold_seconds") < configured("attribution.grace_seconds") <= 30


def test_prometheus_scrapes_the_metrics_listener_and_reads_the_rules() -> None:
    [job] = prometheus_config()["scrape_configs"]
    [rules] = prometheus_config()["rule_files"]

    assert job["static_configs"] == [{"targets": [f"exporter:{configured('prometheus.port')}"]}]
    assert mounted("prometheus", rules).samefile(ROOT / "k8s/monitoring/rules.yaml")


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    providers = provisioned("dashboards/spot-interruption-exporter.yaml")["providers"]
    sources = provisioned("datasources/prometheus.yaml")["datasources"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert [str(Path(home).parent)] == [provider["options"]["path"] for provider in providers]
    assert mounted("grafana", home).samefile(ROOT / "k8s/monitoring/dashboard.json")
    [port] = published("prometheus")
    assert [source["url"] for source in sources] == [f"http://prometheus:{port}"]


def published(service: str) -> set[int]:
    return {int(port.rpartition(":")[2]) for port in SERVICES[service]["ports"]}


def configured(key: str) -> Any:  # noqa: ANN401  # a setting's own type
    path = mounted("exporter", SERVICES["exporter"]["environment"]["CONFIG_PATH"])
    value: Any = load_settings(path, {})[0]
    for name in key.split("."):
        value = getattr(value, name)
    return value


def prometheus_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(
        mounted("prometheus", "/etc/prometheus/prometheus.yml").read_text()
    )
    return config


def provisioned(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(mounted("grafana", f"{PROVISIONING}/{name}").read_text())
    return content
