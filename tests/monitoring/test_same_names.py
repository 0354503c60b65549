"""The Grafana dashboard for clusters with the same name, in two projects and in two locations of one project.

Two installations of the exporter export them, each with its own job and namespace.
"""

import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pytest

from app import VERSION
from tests.simulation.week import SECONDS, STEP_SECONDS
from tests.support.exporter import OWN
from tests.support.grafana import ALL, PANELS, QUERIES, QUERY_VARIABLES, Grafana, Query
from tests.support.prometheus import Prometheus, backfill
from tests.support.rules import rule_groups

CLUSTER: Final = ("project", "kubernetes_cluster", "cluster_location")
SHOP: Final = {"job": "spot-interruption-exporter", "namespace": "spot", "instance": "sie-0"}
LAB: Final = {"job": "lab-exporter", "namespace": "lab", "instance": "sie-0"}
STRANGER: Final = {"job": "node", "namespace": "monitoring", "instance": "node-0"}


class Cluster(NamedTuple):
    """A cluster with one label set, and its figures at the end of the week."""

    target: Mapping[str, str]
    labels: Mapping[str, str]
    live: int
    interruptions: int
    hours: int


def labelled(project: str, cluster: str, location: str, flavour: str = "n2-standard-8") -> dict[str, str]:
    where = {"project": project, "kubernetes_cluster": cluster, "cluster_location": location}
    pool, zone = ("gpu", "us-central1-a") if flavour.startswith("g2") else ("spot", "europe-west1-b")
    return where | {"node_pool": pool, "zone": zone, "machine_type": flavour}


CLUSTERS: Final = [
    Cluster(SHOP, labelled("shop-prod", "shop", "europe-west1"), 60, 274, 10080),
    Cluster(SHOP, labelled("shop-staging", "shop", "europe-west1"), 12, 23, 1479),
    Cluster(SHOP, labelled("shop-prod", "shop", "europe-west1-b"), 5, 9, 800),
    Cluster(LAB, labelled("lab", "lab", "us-central1", "g2-standard-12"), 8, 100, 1000),
]
# The interruptions that are counted without a cluster.
UNKNOWN: Final = Cluster(SHOP, dict.fromkeys(CLUSTERS[0].labels, "unknown"), 0, 10, 0)


class Line(NamedTuple):
    """A series that grows evenly to its value, or that always has this value."""

    name: str
    labels: Mapping[str, str]
    value: float
    grows: bool = True

    def at(self, share: float) -> float:
        return math.floor(self.value * share) if self.grows else self.value

    def __str__(self) -> str:
        labels = ",".join(f'{label}="{value}"' for label, value in self.labels.items())
        return f"{self.name}{{{labels}}}"


def fleet_series(cluster: Cluster) -> Iterator[Line]:
    target, labels, live, interruptions, hours = cluster
    six = {**target, **labels}
    yield Line("spot_instances", six, live, grows=False)
    yield Line("spot_interruptions_total", six, interruptions)
    yield Line("spot_instances_created_total", six, interruptions + live)
    yield Line("spot_instance_creations_failed_total", six, interruptions // 4)
    yield Line("spot_instance_seconds_total", six, hours * 3600)


def named_series(target: Mapping[str, str], labels: Mapping[str, str], ends: float) -> Iterator[Line]:
    """Yield the series that have only the name of a cluster, without project and location."""
    name = {**target, "kubernetes_cluster": labels["kubernetes_cluster"]}
    kind = {**name, "machine_type": labels["machine_type"]}
    hours = 2 if target is LAB else 20
    for bound in (3600, 14400, 86400, math.inf):
        counted = 100 if bound >= hours * 3600 else 0
        le = "+Inf" if bound == math.inf else f"{bound:.1f}"
        yield Line("spot_instance_lifetime_seconds_bucket", {**kind, "le": le}, counted)
    yield Line("spot_instance_lifetime_seconds_count", kind, 100)
    yield Line("spot_last_interruption_timestamp_seconds", name, ends - 60 * hours, grows=False)


def own_series(target: Mapping[str, str], projects: set[str], ends: float) -> Iterator[Line]:
    for endpoint in ("creation", "interruption"):
        there = {**target, "endpoint": endpoint}
        yield Line(f"{OWN}_push_messages_total", {**there, "outcome": "counted"}, 300)
        yield Line(f"{OWN}_push_errors_total", {**there, "reason": "not_authenticated"}, 100)
        yield Line(f"{OWN}_last_push_timestamp_seconds", there, ends - 30, grows=False)
        for le in ("10.0", "+Inf"):
            yield Line(f"{OWN}_event_delay_seconds_bucket", {**there, "le": le}, 3000)
    for le in ("0.01", "+Inf"):
        yield Line(f"{OWN}_store_commit_seconds_bucket", {**target, "le": le}, 3000)
    yield Line(f"{OWN}_pending_interruptions", target, 2, grows=False)
    yield Line(f"{OWN}_build_info", {**target, "version": VERSION}, 1, grows=False)
    for project in projects:
        listed = f"{OWN}_inventory_last_success_timestamp_seconds"
        yield Line(listed, {**target, "project": project}, ends - 600, grows=False)
        yield Line(f"{OWN}_recovered_interruptions_total", {**target, "project": project}, 300)


def process_series(target: Mapping[str, str], restarts: int) -> Iterator[Line]:
    yield Line("process_resident_memory_bytes", target, 9e7, grows=False)
    yield Line("process_cpu_seconds_total", target, 6000)
    yield Line("process_start_time_seconds", target, restarts + 0.5)


def alert_series() -> Iterator[Line]:
    firing = {"alertstate": "firing", "severity": "warning"}
    for cluster in CLUSTERS:
        where = {label: cluster.labels[label] for label in CLUSTER}
        yield Line("ALERTS", {**firing, "alertname": "SpotInterruptionRateHigh", **where}, 1, grows=False)
    down = {"alertname": "SpotInterruptionExporterDown", "job": LAB["job"], "namespace": LAB["namespace"]}
    yield Line("ALERTS", {**firing, **down}, 1, grows=False)
    pending = {"alertname": "SpotInterruptionExporterPendingHigh", "alertstate": "pending"}
    yield Line("ALERTS", pending, 1, grows=False)
    yield Line("ALERTS", {**firing, "alertname": "SpotifyDown"}, 1, grows=False)


def all_series(ends: float) -> Iterator[Line]:
    for cluster in (*CLUSTERS, UNKNOWN):
        yield from fleet_series(cluster)
    for cluster in (CLUSTERS[0], CLUSTERS[3]):
        projects = {one.labels["project"] for one in CLUSTERS if one.target is cluster.target}
        yield from named_series(cluster.target, cluster.labels, ends)
        yield from own_series(cluster.target, projects, ends)
    yield from process_series(SHOP, restarts=3)
    yield from process_series(LAB, restarts=0)
    yield from process_series(STRANGER, restarts=9)
    yield from alert_series()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grafana]:
    directory = tmp_path_factory.mktemp("same-names")
    ends = float(int(time.time()))
    history = directory / "history.txt"
    series = list(all_series(ends))
    steps = int(SECONDS / STEP_SECONDS)
    with history.open("w") as file:
        for step in range(steps + 1):
            at = ends - SECONDS + step * STEP_SECONDS
            file.writelines(f"{one} {one.at(step / steps)} {at}\n" for one in series)
        file.write("# EOF\n")
    backfill(history, directory)
    with Prometheus(directory, []) as prometheus:
        yield Grafana(prometheus.url, ALL, ends)


each_query: Final = pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
ALERTS: Final = QUERIES["Firing alerts A"]


@each_query
def test_every_query_has_an_answer(query: Query, everything: Grafana) -> None:
    assert [value for value in everything.values(query) if not math.isnan(value)]


def by_cluster(found: list[tuple[Mapping[str, str], list[float]]]) -> dict[tuple[str, ...], float]:
    return {tuple(labels[label] for label in CLUSTER): values[-1] for labels, values in found}


@pytest.mark.parametrize("table", ["Clusters", "Clusters, pools, machine types and zones"])
def test_clusters_with_the_same_name_are_separate_rows(table: str, everything: Grafana) -> None:
    live, rate = (by_cluster(everything.series(QUERIES[f"{table} {column}"])) for column in "AD")

    for project, instances, per_1000_hours in (("shop-prod", 60, 27.2), ("shop-staging", 12, 15.6)):
        cluster = (project, "shop", "europe-west1")
        assert live[cluster] == instances
        assert rate[cluster] == pytest.approx(per_1000_hours, rel=0.01)


def test_the_compared_columns_are_instances_and_rate() -> None:
    for panel in PANELS:
        if panel["title"].startswith("Clusters"):
            [renamed] = [
                one["options"]["renameByName"] for one in panel["transformations"] if one["id"] == "organize"
            ]
            assert (renamed["Value #A"], renamed["Value #D"]) == ("Instances", "Rate")


@each_query
def test_every_series_looks_different(query: Query, everything: Grafana) -> None:
    """Compare the legends or the cells that a panel shows for its series."""
    found = [labels for labels, _ in everything.series(query)]
    shown = [_shown(query, labels) for labels in found]

    assert len(set(shown)) == len(found)
    for labels in found:
        if "kubernetes_cluster" in labels and query is not ALERTS:
            assert labels.keys() >= set(CLUSTER)


def _shown(query: Query, labels: Mapping[str, str]) -> str:
    [panel] = [one for one in PANELS if one["title"] == query.name.rpartition(" ")[0]] or [None]
    if panel is None or panel["type"] != "table":
        return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), query.legend)
    [arranged] = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
    return str([labels.get(name, "") for name in arranged["renameByName"]])


CLUSTER_QUERIES: Final = [
    query
    for name, query in QUERIES.items()
    if "by (project, kubernetes_cluster, cluster_location"
    in re.sub(r"max by \([^)]*\) \(spot_inst", "", query.expression)
]


@pytest.mark.parametrize("query", CLUSTER_QUERIES, ids=lambda query: query.name)
@pytest.mark.parametrize("cluster", CLUSTERS[:3], ids=lambda one: "-".join(one.labels[x] for x in CLUSTER))
def test_a_cluster_has_the_same_figures_with_and_without_others_of_its_name(
    query: Query, cluster: Cluster, everything: Grafana
) -> None:
    where = {label: cluster.labels[label] for label in CLUSTER}
    alone = everything.choosing(project=where["project"], location=where["cluster_location"]).series(query)

    assert alone
    assert alone == [found for found in everything.series(query) if found[0].items() >= where.items()]


def honoured(query: Query) -> set[str]:
    """Return the variables that limit a query, by labels of its own series or of the fleet's series."""
    if query is ALERTS:
        return set()
    if OWN in query.expression:
        by_project = re.search("_inventory_|_recovered_", query.expression)
        return {"job", "namespace"} | ({"project"} if by_project else set())
    return {"job", "namespace"} if query.name == "Counted as unknown A" else set(ALL)


@each_query
def test_a_query_is_limited_by_each_variable_whose_label_it_has(query: Query, everything: Grafana) -> None:
    for variable in honoured(query):
        assert everything.choosing(**{variable: "nothing"}).values(query) == [], variable


def test_an_alert_is_shown_unless_its_labels_contradict_the_choice(everything: Grafana) -> None:
    def shown(**chosen: str) -> set[tuple[str, str]]:
        found = everything.choosing(**chosen).series(ALERTS)
        return {(labels["alertname"], labels.get("project", "")) for labels, _ in found}

    down = ("SpotInterruptionExporterDown", "")
    rates = {("SpotInterruptionRateHigh", cluster.labels["project"]) for cluster in CLUSTERS}
    assert shown() == {down, *rates}
    assert shown(project="lab") == {down, ("SpotInterruptionRateHigh", "lab")}
    assert shown(namespace="spot") == rates
    assert shown(project="nothing", zone="nothing") == {down}


def test_the_dashboard_shows_all_alerts_of_the_rules() -> None:
    names = [rule["alert"] for group in rule_groups() for rule in group["rules"] if "alert" in rule]
    found = re.search(r'alertname=~"([^"]+)"', ALERTS.expression)
    assert found is not None

    assert names
    assert [name for name in names if not re.fullmatch(found[1], name)] == []


def test_ages_are_those_of_the_chosen_clusters(everything: Grafana) -> None:
    [median] = everything.choosing(project="lab").values(QUERIES["Median age at interruption A"])
    [since] = everything.choosing(zone="us-central1-a").values(QUERIES["Since the last interruption A"])

    assert 3600 < median < 14400
    assert since == 120


def test_pending_interruptions_of_two_installations_add_up(everything: Grafana) -> None:
    assert everything.values(QUERIES["Pending interruptions A"]) == [4]
    assert everything.choosing(namespace="lab").values(QUERIES["Pending interruptions A"]) == [2]


def test_the_process_panels_show_only_exporters(everything: Grafana) -> None:
    restarts = {labels["namespace"]: values for labels, values in everything.series(QUERIES["Restarts A"])}
    assert restarts == {"spot": [3], "lab": [0]}
    for name in ("Memory A", "Processor A"):
        namespaces = {labels["namespace"] for labels, _ in everything.series(QUERIES[name])}
        assert namespaces == {"spot", "lab"}
        [alone] = everything.choosing(job="lab-exporter").series(QUERIES[name])
        assert alone[0]["namespace"] == "lab"


def test_the_exporter_and_each_label_of_the_instances_can_be_chosen() -> None:
    chosen = [str(one["query"]["query"]).rstrip(")").rpartition(", ")[2] for one in QUERY_VARIABLES]

    assert set(chosen) == {"job", "namespace", *CLUSTERS[0].labels}


@pytest.mark.parametrize("variable", QUERY_VARIABLES, ids=lambda variable: variable["name"])
def test_a_variable_offers_only_values_that_match_the_variables_before_it(
    variable: Mapping[str, Any], everything: Grafana
) -> None:
    lab = everything.choosing(
        **{one["name"]: _value(one, {**CLUSTERS[3].target, **CLUSTERS[3].labels}) for one in QUERY_VARIABLES}
    )
    before = QUERY_VARIABLES[: QUERY_VARIABLES.index(dict(variable))]
    assert len(everything.choices(variable)) > 1
    if before:
        assert lab.choices(variable) == {_value(variable, {**CLUSTERS[3].target, **CLUSTERS[3].labels})}
    assert set(re.findall(r"\$(\w+)", variable["query"]["query"])) == {one["name"] for one in before}


def _value(variable: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    return labels[str(variable["query"]["query"]).rstrip(")").rpartition(", ")[2]]
