"""The Grafana dashboard: each query has an answer from a Prometheus with a week of a simulated fleet."""

import json
import math
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from app.metrics import Metrics
from tests.simulation.week import Week
from tests.support.docs import DOCS, RUNBOOK, anchors
from tests.support.exporter import OWN
from tests.support.grafana import ALL, BOARD, PANELS, QUERIES, QUERY_VARIABLES, Grafana, Query, interpolated
from tests.support.requirement import require

ROOT: Final = Path(__file__).parents[2]
MONITORING: Final = ROOT / "k8s" / "monitoring"
GRAFANA_TYPES: Final = "grafana-foundation-sdk"
COLUMNS: Final = 24


@pytest.fixture(scope="module")
def everything(week: Week) -> Grafana:
    return Grafana(week.prometheus.url, ALL)


@pytest.fixture(scope="module")
def one_pool(week: Week) -> Grafana:
    """Choose one value for each variable: the label set with most interruptions."""
    [most] = week.prometheus.query("topk(1, spot_interruptions_total{kubernetes_cluster!='unknown'})")
    labels = {variable["name"]: _label(variable) for variable in QUERY_VARIABLES}
    chosen = {name: _escaped(most.labels[label]) for name, label in labels.items() if label in most.labels}
    return Grafana(week.prometheus.url, {**ALL, **chosen})


# In the simulated week it is not certain that an alert fires, and process metrics are not kept.
# test_same_names.py has data for all queries.
OF_THE_WEEK: Final = {
    name: query
    for name, query in QUERIES.items()
    if name not in {"Firing alerts A", "Memory A", "Processor A"}
}
each_query_of_the_week: Final = pytest.mark.parametrize("query", OF_THE_WEEK.values(), ids=OF_THE_WEEK)


@each_query_of_the_week
def test_every_query_has_an_answer(query: Query, everything: Grafana) -> None:
    assert _numbers(everything.values(query))


@each_query_of_the_week
def test_every_query_has_an_answer_for_one_pool(query: Query, one_pool: Grafana) -> None:
    assert _numbers(one_pool.values(query))


def test_the_total_and_the_bars_show_the_true_interruptions(week: Week, everything: Grafana) -> None:
    [counted] = week.truth.interruptions(week.begins, week.ends).values()
    [shown] = everything.values(QUERIES["Interruptions A"])
    assert shown == pytest.approx(counted, rel=0.01)
    bars = everything.values(QUERIES["Interruptions over time A"])
    # The first bar begins before the week.
    assert sum(bars) == pytest.approx(counted, rel=0.02)


def test_recovered_interruptions_are_those_that_the_ledger_has_from_operations(
    week: Week, everything: Grafana
) -> None:
    recovered = sum(
        row["found_by"] == "operation" and row["counted_as"] != ""
        for row in _ledger(week)
        if datetime.fromisoformat(row["recorded_at"]).timestamp() > week.begins
    )

    assert recovered > 50
    # A reading counts dozens at once, and Prometheus extrapolates the increase of an interval.
    assert sum(everything.values(QUERIES["Recovered interruptions A"])) == pytest.approx(recovered, rel=0.1)


def _ledger(week: Week) -> Iterator[Mapping[str, Any]]:
    cursor: dict[str, str] = {}
    while True:
        url = f"{week.exporter.metrics_url}/interruptions"
        page = week.exporter.client.get(url, params={"limit": "1000", **cursor}).json()
        yield from page["interruptions"]
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


def test_the_dashboard_file_is_the_output_of_its_program() -> None:
    program = [sys.executable, "-W", "error", str(MONITORING / "dashboard.py")]
    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    assert printed == (MONITORING / "dashboard.json").read_text(), "run dashboard.py again"


def test_the_grafana_types_are_pinned_and_not_updated_by_dependabot() -> None:
    # The highest version number belongs to the oldest Grafana release, so an update would be a downgrade.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [one for one in project["optional-dependencies"]["test"] if one.startswith(f"{GRAFANA_TYPES}=")]
    assert re.fullmatch(rf"{GRAFANA_TYPES}==\d+!11\.6\.0", *pins)
    assert f"`{pins[0].partition('==')[2]}`" in (DOCS / "dashboard.md").read_text()

    updates = _yaml(".github/dependabot.yaml")["updates"]
    [python] = [one for one in updates if one["package-ecosystem"] == "pip"]
    assert python["ignore"] == [{"dependency-name": GRAFANA_TYPES}]


def test_every_series_is_exported() -> None:
    shown = Metrics(reasons=["internal"]).render("text/plain")[0].decode()
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", shown, re.MULTILINE)
    series = {name for name, _ in kinds}
    series |= {f"{name}_{end}" for name, kind in kinds if kind == "histogram" for end in ("bucket", "count")}
    expressions = [
        *(query.expression for query in QUERIES.values()),
        *(one["query"]["query"] for one in QUERY_VARIABLES),
    ]
    named = set(re.findall(r"\b(?:spot|interruption|process)_\w+", " ".join(expressions)))
    assert named <= series
    assert len(named) > 10


# Two replicas. The second takes over the lease, and is restarted. Both export the pending interruptions.
# One sample per minute, for an hour.
REPLICAS: Final = {
    'spot_instances{project="p", node_pool="n", instance="0"}': "5x30 stale",
    'spot_instances{project="p", node_pool="n", instance="1"}': "_x29 5x30",
    'spot_interruptions_total{node_pool="n", instance="0"}': "0x19 3x40",
    'spot_interruptions_total{node_pool="n", instance="1"}': "0x9 2x19 _x4 2x10 4x15",
    'spot_instance_seconds_total{node_pool="n", instance="0"}': "0+300x30 9000x29",
    'spot_instance_seconds_total{node_pool="n", instance="1"}': "0x30 300+300x29",
    'spot_last_interruption_timestamp_seconds{instance="0"}': "_x19 1200x40",
    'spot_last_interruption_timestamp_seconds{instance="1"}': "_x19 600x25 2700x14",
    f'{OWN}_pending_interruptions{{instance="0"}}': "2x60",
    f'{OWN}_pending_interruptions{{instance="1"}}': "2x60",
    f'{OWN}_last_push_timestamp_seconds{{endpoint="creation", instance="0"}}': "0+60x60",
    f'{OWN}_last_push_timestamp_seconds{{endpoint="creation", instance="1"}}': "30x60",
    f'{OWN}_inventory_last_success_timestamp_seconds{{project="p", instance="0"}}': "1500x60",
    f'{OWN}_inventory_last_success_timestamp_seconds{{project="p", instance="1"}}': "_x29 3000x30",
}


@pytest.mark.parametrize(
    ("panel", "minute", "value"),
    [
        pytest.param("Live Spot instances", 15, 5, id="before-the-lease-moves"),
        pytest.param("Live Spot instances", 30, 5, id="while-both-export-the-fleet"),
        pytest.param("Live Spot instances", 45, 5, id="after-it-has-moved"),
        pytest.param("Interruptions", 60, 7, id="counters-are-summed"),
        pytest.param("Interruption rate", 60, 1400, id="both-parts-of-a-rate-are-summed"),
        pytest.param("Since the last interruption", 60, 900, id="the-newest-interruption"),
        pytest.param("Pending interruptions", 60, 2, id="pending-interruptions-count-once"),
        pytest.param("Since the last push", 60, 0, id="the-newest-push"),
        pytest.param("Oldest fleet listing", 60, 600, id="the-newest-listing"),
    ],
)
def test_replicas_are_shown_as_a_single_exporter(
    panel: str, minute: int, value: float, tmp_path: Path
) -> None:
    promtool = require("promtool", shutil.which("promtool"))
    expression = interpolated(QUERIES[f"{panel} A"].expression, ALL, seconds=3600)
    expected = {
        "expr": f"round(sum({expression}))",
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": "{}", "value": value}],
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in REPLICAS.items()],
        "promql_expr_test": [expected],
    }
    path = tmp_path / "replicas.yaml"
    path.write_text(json.dumps({"tests": [case]}))  # JSON is YAML
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_panels_overlap() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    assert all(place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_tables_have_only_options_that_grafana_11_to_13_all_have() -> None:
    # Grafana 13 has no `footer`, which the types of Grafana 11.6 set in each table.
    options = {name for panel in PANELS if panel["type"] == "table" for name in panel["options"]}
    assert options == {"frameIndex", "showHeader", "showTypeIcons", "sortBy", "cellHeight"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_description_a_unit_and_a_text_without_data(panel: Mapping[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["noValue"]
    assert panel["datasource"]["uid"] == "${datasource}"


def test_ids_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in BOARD["panels"]]
        assert len(set(values)) == len(values)


def test_the_links_lead_to_the_runbook_and_to_the_status_page() -> None:
    runbook, page = BOARD["links"]
    [address] = [one for one in BOARD["templating"]["list"] if one["name"] == "page"]

    # test_rules.py has the runbook's address and its sections.
    assert re.fullmatch(r"https://[^#]+#runbook", runbook["url"])
    assert "runbook" in anchors(RUNBOOK)
    # The default address is that of the documented port-forward and of Docker Compose.
    assert page["url"] == "${page:raw}"
    assert address["type"] == "textbox"
    assert address["query"] == address["current"]["value"] == "http://127.0.0.1:8090/"


def test_annotations_are_shown_in_existing_panels() -> None:
    [annotation] = BOARD["annotations"]["list"]
    drawn = {panel["id"] for panel in PANELS if panel["type"] == "timeseries"}
    assert set(annotation["filter"]["ids"]) <= drawn


def test_kustomize_makes_a_config_map_that_grafana_finds() -> None:
    kubectl = require("kubectl", shutil.which("kubectl"))
    built = subprocess.run([kubectl, "kustomize", MONITORING], check=True, capture_output=True, text=True)
    [config_map] = yaml.safe_load_all(built.stdout)
    assert config_map["metadata"]["name"] == "spot-interruption-exporter-dashboard"
    assert config_map["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(config_map["data"]["spot-interruption-exporter.json"]) == BOARD


def test_grafana_knows_the_scrape_interval() -> None:
    [source] = _yaml("k8s/monitoring/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    scraped = _yaml("infra/compose/prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def _yaml(path: str) -> Any:  # noqa: ANN401  # YAML
    return yaml.safe_load((ROOT / path).read_text())


def _numbers(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _label(variable: Mapping[str, Any]) -> str:
    return str(variable["query"]["query"]).rstrip(")").rpartition(", ")[2]


def _escaped(value: str) -> str:
    """Return a chosen value as Grafana escapes it in a regular expression."""
    return re.sub(r"([\\^$*+?.()|{}\[\]])", r"\\\\\1", value)
