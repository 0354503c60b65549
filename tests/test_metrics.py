"""The series: each alone with time as a parameter, and all as the exporter serves them."""

import platform
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app import VERSION
from app.domain.batch import Applied
from app.domain.events import InstanceInterrupted, InstanceName, InterruptionDetails
from app.domain.instances import Labels
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.metrics import Metrics
from app.store.port import StoredState
from app.web.problems import leaves
from tests.support.clock import Clock
from tests.support.collector import ManagedCollector
from tests.support.entries import insert, made_id
from tests.support.exporter import OWN, Exporter
from tests.support.process import eventually
from tests.support.samples import Samples
from tests.support.stores import Disk

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
TEXT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

CLUSTER: Final = {"kubernetes_cluster"}
SIX: Final = {"project", "kubernetes_cluster", "cluster_location", "node_pool", "zone", "machine_type"}
ENDPOINT: Final = {"endpoint"}

PROJECT: Final = {"project"}
FAMILIES: Final = {
    "interruption_events": ("counter", CLUSTER),
    "spot_interruptions": ("counter", SIX),
    "spot_instances_created": ("counter", SIX),
    "spot_instance_creations_failed": ("counter", SIX),
    "spot_instances": ("gauge", SIX),
    "spot_instance_seconds": ("counter", SIX),
    "spot_instance_lifetime_seconds": ("histogram", {"kubernetes_cluster", "machine_type"}),
    "spot_last_interruption_timestamp_seconds": ("gauge", CLUSTER),
    f"{OWN}_push_messages": ("counter", {"endpoint", "outcome"}),
    f"{OWN}_push_errors": ("counter", {"endpoint", "reason"}),
    f"{OWN}_pending_released": ("counter", {"by"}),
    f"{OWN}_event_delay_seconds": ("histogram", ENDPOINT),
    f"{OWN}_last_push_timestamp_seconds": ("gauge", ENDPOINT),
    f"{OWN}_pending_interruptions": ("gauge", set[str]()),
    f"{OWN}_store_commit_seconds": ("histogram", set[str]()),
    f"{OWN}_store_resets": ("counter", set[str]()),
    f"{OWN}_label_overflow": ("counter", set[str]()),
    f"{OWN}_inventory_last_success_timestamp_seconds": ("gauge", PROJECT),
    f"{OWN}_inventory_duration_seconds": ("gauge", PROJECT),
    f"{OWN}_inventory_instances": ("gauge", PROJECT),
    f"{OWN}_inventory_failures": ("counter", {"project", "reason"}),
    f"{OWN}_recovered_interruptions": ("counter", PROJECT),
    f"{OWN}_recovery_last_success_timestamp_seconds": ("gauge", PROJECT),
    f"{OWN}_recovery_failures": ("counter", {"project", "reason"}),
    f"{OWN}_build_info": ("gauge", {"version", "python_version"}),
}
OF_THE_LIBRARY: Final = {
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds",
    "process_open_fds",
    "process_max_fds",
    "python_info",
}
PRODUCT_COUNTERS: Final = (
    "interruption_events_total",
    "spot_interruptions_total",
    "spot_instances_created_total",
    "spot_instance_creations_failed_total",
    "spot_instance_seconds_total",
)
NODE: Final = {
    "project": "shop-prod",
    "kubernetes_cluster": "tills",
    "cluster_location": "europe-west1",
    "node_pool": "spot",
    "zone": "europe-west1-c",
    "machine_type": "e2-standard-8",
}
NOW: Final = 1_772_451_656.0
UNKNOWN: Final = dict.fromkeys(SIX, "unknown")
LABELS: Final = Labels("shop-prod", "tills", "europe-west1", "spot", "europe-west1-c", "e2-standard-8")


def samples(families: Iterable[Metric]) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def read(metrics: Metrics) -> Samples:
    return samples(parse_text(metrics.render("")[0].decode()))


def value(metrics: Metrics, series: str, **labels: str) -> float | None:
    return read(metrics).get((series, frozenset(labels.items())))


def story(exporter: Exporter) -> None:
    """Push an example of each kind of event."""
    exporter.create("node-1")
    exporter.interrupt("node-1")
    exporter.create("node-2")
    exporter.deliver("creation", insert("node-2", last=True, failed=True))
    exporter.interrupt("node-3")
    exporter.post("creation", b"")
    exporter.parts.metrics.listed("shop-prod", at=1.0, seconds=2.0, instances=3)
    exporter.parts.metrics.listing_failed("shop-test", "forbidden")


def recover(exporter: Exporter, name: str) -> None:
    """Record another interruption, as if it were found among the operations."""
    exporter.create(name)
    found = InstanceInterrupted(
        "interrupted operation recovered",
        exporter.parts.clock(),
        InstanceName("shop-prod", "europe-west1-c", name),
        made_id("shop-prod", "europe-west1-c", name),
        details=InterruptionDetails("operation"),
    )
    work = exporter.parts.recorder.perform(lambda store, now: store.recover([found], -1, now))
    assert len(exporter.perform(work).result().counted) == 1


@pytest.mark.parametrize(
    ("accept", "parse"),
    [pytest.param("", parse_text, id="text"), pytest.param(OPENMETRICS, parse_openmetrics, id="openmetrics")],
)
def test_the_series_are_those_of_the_contract(
    exporter: Exporter, accept: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    story(exporter)
    exporter.parts.metrics.operations_read("shop-prod")
    exporter.parts.metrics.recovery_failed("shop-prod", "forbidden")
    recover(exporter, "node-3")
    families = {family.name: family for family in parse(exporter.scrape(accept).text)}

    assert families.keys() == FAMILIES.keys() | OF_THE_LIBRARY
    for name, (kind, labels) in FAMILIES.items():
        family = families[name]
        assert (name, family.type) == (name, kind)
        assert family.documentation
        assert family.samples
        for sample in family.samples:
            assert (sample.name, sample.labels.keys() - {"le"}) == (sample.name, labels)
            assert not sample.name.endswith("_created")
            assert all(sample.labels.values())


def test_the_first_series_of_the_product_is_unchanged(shared_exporter: Exporter) -> None:
    lines = shared_exporter.scrape().text.splitlines()
    help_line = "The total number of interruption events for a given cluster"

    assert f"# HELP interruption_events_total {help_line}" in lines
    assert "# TYPE interruption_events_total counter" in lines
    assert 'interruption_events_total{kubernetes_cluster="unknown"} 0.0' in lines


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("*/*", TEXT_TYPE, id="anything"),
        pytest.param(f"{OPENMETRICS};q=0.1, text/plain;version=0.0.4;q=0.9", TEXT_TYPE, id="text"),
        pytest.param(f"{OPENMETRICS};q=0.9, text/plain;version=0.0.4;q=0.1", OPENMETRICS_TYPE, id="open"),
        pytest.param("application/openmetrics-text; version=9.9.9", TEXT_TYPE, id="unknown-version"),
        pytest.param("application/openmetrics-text; version=latest", TEXT_TYPE, id="not-a-version"),
        pytest.param("text/plain; version=1..0", TEXT_TYPE, id="half-a-version"),
    ],
)
def test_the_format_is_the_preferred_one_in_a_version_that_is_spoken(
    shared_exporter: Exporter, accept: str, content_type: str
) -> None:
    response = shared_exporter.scrape(accept)

    assert response.is_success
    assert response.headers["content-type"] == content_type
    assert response.text.endswith("# EOF\n") == (content_type == OPENMETRICS_TYPE)


def test_several_accept_fields_are_read_as_one_list(shared_exporter: Exporter) -> None:
    response = shared_exporter.client.get(
        f"{shared_exporter.metrics_url}/metrics",
        headers=[("accept", "text/plain;q=0.1"), ("accept", OPENMETRICS)],
    )

    assert response.headers["content-type"] == OPENMETRICS_TYPE


@pytest.mark.parametrize("escaping", ["allow-utf-8", "underscores", "dots", "values", "another"])
@pytest.mark.parametrize(
    ("media_type", "parse"),
    [
        ("text/plain;version=1.0.0", parse_text),
        ("application/openmetrics-text;version=1.0.0", parse_openmetrics),
    ],
)
def test_names_are_the_same_in_every_escaping(
    shared_exporter: Exporter, media_type: str, parse: Callable[[str], Iterable[Metric]], escaping: str
) -> None:
    response = shared_exporter.scrape(f"{media_type};escaping={escaping}")

    assert response.headers["content-type"] in (TEXT_TYPE, OPENMETRICS_TYPE)
    assert {family.name for family in parse(response.text)} == FAMILIES.keys() | OF_THE_LIBRARY


def test_before_anything_has_happened_everything_that_can_is_at_zero(exporter: Exporter) -> None:
    expected: Samples = {
        **{
            (f"{OWN}_push_messages_total", frozenset({("endpoint", endpoint), ("outcome", outcome)})): 0.0
            for endpoint in ("creation", "interruption")
            for outcome in ("tracked", "counted", "duplicate", "pending", "ended", "ignored")
        },
        **{
            (f"{OWN}_push_errors_total", frozenset({("endpoint", endpoint), ("reason", leaf.reason)})): 0.0
            for endpoint in ("creation", "interruption")
            for leaf in leaves()
        },
        **{
            (f"{OWN}_push_errors_total", frozenset({("endpoint", "other"), ("reason", reason)})): 0.0
            for reason in ("not_found", "method_not_allowed")
        },
        **{
            (f"{OWN}_pending_released_total", frozenset({("by", by)})): 0.0
            for by in ("creation", "inventory", "expiry")
        },
        **{
            (f"{OWN}_event_delay_seconds_count", frozenset({("endpoint", endpoint)})): 0.0
            for endpoint in ("creation", "interruption")
        },
        (f"{OWN}_pending_interruptions", frozenset()): 0.0,
        (f"{OWN}_store_resets_total", frozenset()): 0.0,
        (f"{OWN}_label_overflow_total", frozenset()): 0.0,
        (f"{OWN}_store_commit_seconds_count", frozenset()): 0.0,
        ("interruption_events_total", frozenset({("kubernetes_cluster", "unknown")})): 0.0,
        ("spot_instances", frozenset(UNKNOWN.items())): 0.0,
        **{(series, frozenset(UNKNOWN.items())): 0.0 for series in PRODUCT_COUNTERS[1:]},
        (
            "spot_instance_lifetime_seconds_count",
            frozenset({("kubernetes_cluster", "unknown"), ("machine_type", "unknown")}),
        ): 0.0,
    }
    found = exporter.exposition()

    assert expected.items() <= found.items()
    assert {sample for sample in found if sample[0].endswith("_total")} - expected.keys() == {
        ("process_cpu_seconds_total", frozenset())
    }


def test_a_timestamp_that_has_not_happened_has_no_series(exporter: Exporter) -> None:
    exporter.create("node-1")
    exporter.interrupt("node-2")

    timestamps = {sample for sample in exporter.exposition() if "timestamp" in sample[0]}
    assert timestamps == {
        (f"{OWN}_last_push_timestamp_seconds", frozenset({("endpoint", endpoint)}))
        for endpoint in ("creation", "interruption")
    }


def test_a_known_instances_series_are_at_zero(exporter: Exporter) -> None:
    exporter.create("node-1")
    found = exporter.exposition()

    assert found["interruption_events_total", frozenset({("kubernetes_cluster", "tills")})] == 0
    assert found["spot_interruptions_total", frozenset(NODE.items())] == 0
    assert found["spot_instances_created_total", frozenset(NODE.items())] == 1
    assert found["spot_instances", frozenset(NODE.items())] == 1
    lifetime = frozenset({("kubernetes_cluster", "tills"), ("machine_type", "e2-standard-8")})
    assert found["spot_instance_lifetime_seconds_count", lifetime] == 0


def test_an_instance_that_is_not_spot_has_its_clusters_series_alone(exporter: Exporter) -> None:
    exporter.create("node-1", spot=False)

    about = {sample[0] for sample in exporter.exposition() if ("kubernetes_cluster", "tills") in sample[1]}
    assert about == {"interruption_events_total"}


def test_the_totals_of_the_story(exporter: Exporter) -> None:
    story(exporter)
    found = exporter.exposition()

    node = frozenset(NODE.items())
    assert found["interruption_events_total", frozenset({("kubernetes_cluster", "tills")})] == 1
    assert found["spot_interruptions_total", node] == 1
    assert found["spot_instances_created_total", node] == 2
    assert found["spot_instance_creations_failed_total", node] == 1
    assert found["spot_instances", node] == 0
    cluster = frozenset({("kubernetes_cluster", "tills")})
    assert found["spot_last_interruption_timestamp_seconds", cluster] == pytest.approx(1772451655.308)
    lifetime = frozenset({("kubernetes_cluster", "tills"), ("machine_type", "e2-standard-8")})
    assert found["spot_instance_lifetime_seconds_sum", lifetime] == pytest.approx(12407.795)
    assert found[f"{OWN}_pending_interruptions", frozenset()] == 1
    assert exporter.answered("creation", "tracked") == 2
    assert exporter.answered("interruption", "counted") == 1
    assert exporter.answered("interruption", "pending") == 1
    assert exporter.refused("creation", "malformed_envelope") == 1
    assert found[f"{OWN}_store_commit_seconds_count", frozenset()] == 5


def test_a_delay_is_from_the_log_to_the_commit(exporter: Exporter) -> None:
    exporter.create("node-1")  # years ago
    exporter.interrupt("node-1", timestamp="9000-01-01T00:00:00Z")  # by a clock that is ahead

    for endpoint, within_half_a_second in (("creation", 0), ("interruption", 1)):
        assert exporter.value(f"{OWN}_event_delay_seconds_count", endpoint=endpoint) == 1
        assert exporter.value(f"{OWN}_event_delay_seconds_bucket", endpoint=endpoint, le="0.5") == (
            within_half_a_second
        )
    assert exporter.value(f"{OWN}_event_delay_seconds_sum", endpoint="interruption") == 0


@pytest.mark.parametrize(
    ("at", "shown"),
    [(NOW - 5.0, NOW - 5.0), (NOW + 3600.0, NOW + 3600.0), (NOW + 90000.0, None), (None, None)],
    ids=["past", "clocks-differ", "still-to-come", "never"],
)
def test_a_newest_interruption_in_the_future_is_not_shown(at: float | None, shown: float | None) -> None:
    metrics = Metrics(clock=lambda: NOW)
    row = ClusterTotals("tills", 7, at, released=True)
    metrics.show(Applied(changed=Totals(clusters={"tills": row})))

    assert value(metrics, "spot_last_interruption_timestamp_seconds", kubernetes_cluster="tills") == shown
    assert value(metrics, "interruption_events_total", kubernetes_cluster="tills") == 7


def test_clusters_with_reserved_names_are_distinguished_everywhere(exporter: Exporter) -> None:
    for cluster in ("unknown", "other"):
        assert exporter.create(cluster, cluster=cluster).json()["kubernetes_cluster"] == f"cluster:{cluster}"
        assert exporter.interrupt(cluster).json()["kubernetes_cluster"] == f"cluster:{cluster}"
    found = exporter.exposition()
    named = {dict(labels).get("kubernetes_cluster") for _, labels in found} - {None}
    listed = exporter.client.get(f"{exporter.metrics_url}/interruptions").json()["interruptions"]

    assert named == {"unknown", "cluster:unknown", "cluster:other"}
    assert exporter.value("interruption_events_total", kubernetes_cluster="unknown") == 0
    assert exporter.value("interruption_events_total", kubernetes_cluster="cluster:other") == 1
    assert {row["kubernetes_cluster"] for row in listed} == {"cluster:unknown", "cluster:other"}


def test_delays_are_counted_in_the_bucket_of_their_bound() -> None:
    metrics = Metrics()
    for seconds in (0.0, 0.5, 0.75, 604800.0, 1e9):
        metrics.pushes["creation"].answered("tracked", seconds)

    bounds = {"0.5": 2, "1.0": 3, "86400.0": 3, "604800.0": 4, "+Inf": 5}
    buckets = {
        bound: value(metrics, f"{OWN}_event_delay_seconds_bucket", endpoint="creation", le=bound)
        for bound in bounds
    }
    assert buckets == bounds
    assert value(metrics, f"{OWN}_event_delay_seconds_sum", endpoint="creation") == 1000604801.25
    assert value(metrics, f"{OWN}_event_delay_seconds_count", endpoint="interruption") == 0


def test_the_cluster_label_is_the_configured_one(tmp_path: Path) -> None:
    with Exporter(tmp_path, {"prometheus.cluster_label": "target_kubernetes_cluster"}) as exporter:
        story(exporter)
        found = exporter.exposition()

    assert found["interruption_events_total", frozenset({("target_kubernetes_cluster", "tills")})] == 1
    assert not any("kubernetes_cluster" in dict(labels) for _, labels in found)
    assert any(name == "spot_interruptions_total" for name, _ in found)


def test_hostile_label_values_are_escaped(exporter: Exporter) -> None:
    cluster = 'ti"lls\\n{},# é'
    exporter.create("node-1", cluster=cluster)

    assert exporter.value("interruption_events_total", kubernetes_cluster=cluster) == 0


def test_beyond_the_limit_label_sets_are_other(tmp_path: Path) -> None:
    with Exporter(tmp_path, {"prometheus.max_label_sets": 1}) as exporter:
        exporter.create("node-1", cluster="tills")
        exporter.create("node-2", cluster="warehouse")
        assert exporter.interrupt("node-2").json()["kubernetes_cluster"] == "warehouse"

        assert exporter.value("interruption_events_total", kubernetes_cluster="warehouse") is None
        assert exporter.value("interruption_events_total", kubernetes_cluster="other") == 1
        assert exporter.value(f"{OWN}_label_overflow_total") == 2


def test_the_build_has_a_series(shared_exporter: Exporter) -> None:
    python = platform.python_version()

    assert shared_exporter.value(f"{OWN}_build_info", version=VERSION, python_version=python) == 1


def test_the_process_has_its_series(shared_exporter: Exporter) -> None:
    found = {name for name, _ in shared_exporter.exposition()}

    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= found


def test_a_damaged_store_is_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Exporter(tmp_path) as exporter:
        assert exporter.value(f"{OWN}_store_resets_total") == 0
    (tmp_path / "exporter.db").write_bytes(b"no database, and longer than its header" * 100)

    with exporter:
        assert exporter.value(f"{OWN}_store_resets_total") == 1
    assert [line.levelname for line in caplog.records] == ["ERROR"]


def test_durable_series_survive_a_restart_and_the_others_begin_again(tmp_path: Path) -> None:
    with Exporter(tmp_path) as exporter:
        story(exporter)
        before = exporter.exposition()
    with exporter:
        after = exporter.exposition()

    durable = {
        sample: number
        for sample, number in before.items()
        if sample[0].startswith(("interruption_events", "spot_")) and not sample[0].startswith(OWN)
    }
    assert len(durable) > 20
    assert durable.items() <= after.items()
    assert after[f"{OWN}_pending_interruptions", frozenset()] == 1
    assert exporter_counters(after) == dict.fromkeys(exporter_counters(after), 0.0)


def exporter_counters(found: Samples) -> Samples:
    return {
        sample: number
        for sample, number in found.items()
        if sample[0].startswith(OWN) and sample[0].endswith("_total")
    }


def test_no_counter_ever_goes_down(tmp_path: Path) -> None:
    disk = Disk()
    scrapes: list[Samples] = []

    def live(exporter: Exporter, number: int) -> None:
        for step in (exporter.create, exporter.interrupt, exporter.interrupt):
            step(f"node-{number}")
            scrapes.append(exporter.exposition())

    with Exporter(tmp_path, open_store=disk.open) as exporter:
        for number in range(6):
            # The third's are committed, the fifth's are not.
            disk.loses_answers, disk.away = number == 2, number == 4
            live(exporter, number)
    with exporter:
        disk.away = False
        live(exporter, 7)

    for before, after in pairwise(scrapes):
        counters = {
            sample: number
            for sample, number in before.items()
            if sample[0].startswith(("interruption_events", "spot_"))
            and sample[0].endswith(("_total", "_bucket", "_count", "_sum"))
            and not sample[0].startswith(OWN)
        }
        assert all(after[sample] >= number for sample, number in counters.items())
    assert scrapes[-1]["interruption_events_total", frozenset({("kubernetes_cluster", "tills")})] == 6


def cluster_row(interruptions: int, *, released: bool = False) -> Totals:
    return Totals(clusters={"tills": ClusterTotals("tills", interruptions, released=released)})


def held(clock: Clock, hold_seconds: float = 30) -> Metrics:
    return Metrics(hold_seconds=hold_seconds, monotonic=clock)


def interruptions(metrics: Metrics) -> float | None:
    return value(metrics, "interruption_events_total", kubernetes_cluster="tills")


def test_a_held_series_shows_zero_until_its_hold_since_the_first_scrape_is_over() -> None:
    clock = Clock(1000.0)
    metrics = held(clock)
    metrics.show(Applied(changed=cluster_row(3)))
    clock.ahead += 1000
    assert not metrics.ready_to_release()

    assert interruptions(metrics) == 0
    clock.ahead += 29.9
    assert interruptions(metrics) == 0
    assert not metrics.ready_to_release()
    clock.ahead += 0.1
    assert metrics.ready_to_release() == cluster_row(3)


def test_at_shutdown_a_held_series_is_released_after_its_next_scrape() -> None:
    clock = Clock(1000.0)
    metrics = held(clock)
    metrics.show(Applied(changed=cluster_row(3)))
    metrics.shorten_hold()
    clock.ahead += 1
    assert not metrics.ready_to_release()

    assert interruptions(metrics) == 0
    clock.ahead += 1
    assert metrics.ready_to_release() == cluster_row(3)


def test_a_held_series_shows_its_value_only_once_that_is_durable() -> None:
    clock = Clock(1000.0)
    metrics = held(clock)
    metrics.show(Applied(changed=cluster_row(3)))
    interruptions(metrics)
    clock.ahead += 30
    assert metrics.ready_to_release()
    assert interruptions(metrics) == 0
    assert metrics.ready_to_release()

    metrics.show(Applied(changed=cluster_row(4, released=True)))
    assert interruptions(metrics) == 4
    assert not metrics.ready_to_release()
    metrics.show(Applied(changed=cluster_row(5, released=True)))
    assert interruptions(metrics) == 5


def test_every_row_is_held_by_itself() -> None:
    clock = Clock(1000.0)
    metrics = held(clock)
    metrics.restore(StoredState(cluster_row(3, released=True)))
    lifetime = LifetimeTotals("tills", "e2-standard-8")
    lifetime.observe(90)
    metrics.show(
        Applied(
            changed=Totals(
                label_sets={LABELS: LabelSetTotals(LABELS, 3, 4, 1, 2, 60.0)},
                lifetimes={("tills", "e2-standard-8"): lifetime},
            )
        )
    )
    found = read(metrics)

    node = frozenset(NODE.items())
    assert interruptions(metrics) == 3
    assert [found[series, node] for series in PRODUCT_COUNTERS[1:]] == [0, 0, 0, 0]
    assert found["spot_instances", node] == 2
    age = frozenset({("kubernetes_cluster", "tills"), ("machine_type", "e2-standard-8")})
    assert found["spot_instance_lifetime_seconds_count", age] == 0
    assert found["spot_instance_lifetime_seconds_sum", age] == 0
    clock.ahead += 30
    due = metrics.ready_to_release()
    assert due.label_sets.keys() == {LABELS}
    assert due.lifetimes.keys() == {("tills", "e2-standard-8")}
    assert not due.clusters


def test_without_a_hold_a_series_shows_its_value_at_once() -> None:
    metrics = held(Clock(1000.0), hold_seconds=0)
    metrics.show(Applied(changed=cluster_row(3, released=True)))

    assert interruptions(metrics) == 3
    assert not metrics.ready_to_release()


def test_rows_that_are_held_when_the_hold_is_removed_are_shown_and_released() -> None:
    metrics = held(Clock(1000.0), hold_seconds=0)
    metrics.restore(StoredState(cluster_row(3)))

    assert interruptions(metrics) == 3
    assert metrics.ready_to_release() == cluster_row(3)


def test_a_dropped_row_disappears_and_is_held_again_when_it_returns() -> None:
    clock = Clock(1000.0)
    metrics = held(clock)
    metrics.show(Applied(changed=cluster_row(3)))
    interruptions(metrics)
    metrics.show(Applied(removed=cluster_row(3)))
    clock.ahead += 30

    assert interruptions(metrics) is None
    assert not metrics.ready_to_release()
    metrics.show(Applied(changed=cluster_row(1)))
    assert interruptions(metrics) == 0
    assert not metrics.ready_to_release()


def test_a_held_first_interruption_is_shown_after_the_hold_and_a_restart_does_not_hold_it_again(
    tmp_path: Path,
) -> None:
    with Exporter(tmp_path, {"prometheus.hold_seconds": 0.3}) as exporter:
        exporter.create("node-1")
        exporter.interrupt("node-1")

        def shown() -> float | None:
            return exporter.value("interruption_events_total", kubernetes_cluster="tills")

        assert shown() == 0
        assert eventually(shown, within=20, what="the value") == 1
    with exporter:
        assert shown() == 1


def test_the_lifetimes_bounds_are_the_contracts() -> None:
    metrics = Metrics()
    minute, hour, day = 60, 3600, 86400
    bounds = [minute, 5 * minute, 15 * minute, 30 * minute, *(n * hour for n in (1, 2, 4, 8, 12))]
    bounds += [n * day for n in (1, 2, 3, 5, 7, 14, 28)]
    row = LifetimeTotals("tills", "n2")
    for bound in bounds:
        row.observe(bound)
        row.observe(bound + 0.001)
    metrics.show(Applied(changed=Totals(lifetimes={("tills", "n2"): replace(row, released=True)})))

    found = {
        dict(labels)["le"]: number
        for (name, labels), number in read(metrics).items()
        if name == "spot_instance_lifetime_seconds_bucket"
    }
    assert [float(le) for le in found] == [*bounds, float("inf")]
    assert list(found.values()) == [*range(1, 2 * len(bounds), 2), 2 * len(bounds)]
    labels = {"kubernetes_cluster": "tills", "machine_type": "n2"}
    assert value(metrics, "spot_instance_lifetime_seconds_count", **labels) == 2 * len(bounds)
    assert value(metrics, "spot_instance_lifetime_seconds_sum", **labels) == pytest.approx(row.sum)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_scrape_in_either_format_begins_a_hold_and_nothing_else_does(accept: str) -> None:
    clock = Clock(1000.0)
    metrics = held(clock)
    metrics.restore(StoredState(cluster_row(3)))
    clock.ahead += 1000

    assert not metrics.ready_to_release()
    metrics.render(accept)
    clock.ahead += 30
    assert metrics.ready_to_release()


def test_released_interruptions_are_counted_by_cause() -> None:
    metrics = Metrics()
    metrics.show(Applied(released={"creation": 2, "expiry": 1}, pending=4, overflowed=3))

    assert value(metrics, f"{OWN}_pending_released_total", by="creation") == 2
    assert value(metrics, f"{OWN}_pending_released_total", by="inventory") == 0
    assert value(metrics, f"{OWN}_pending_released_total", by="expiry") == 1
    assert value(metrics, f"{OWN}_pending_interruptions") == metrics.pending == 4
    assert value(metrics, f"{OWN}_label_overflow_total") == 3


# after a start, for collectors that take the first sample as zero


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _exposition(metrics: Metrics) -> str:
    return metrics.render("")[0].decode()


def _value(metrics: Metrics, name: str) -> float:
    samples = [line for line in _exposition(metrics).splitlines() if line.startswith(name)]
    return float(samples[0].rpartition(" ")[2])


def test_after_a_start_the_restored_total_is_shown_until_the_hold_ends() -> None:
    clock = _Clock()
    metrics = Metrics(hold_seconds=60, monotonic=clock)
    metrics.restore(StoredState(cluster_row(1, released=True)))
    metrics.show(Applied(changed=cluster_row(6, released=True)))

    first = _value(metrics, "interruption_events_total")
    clock.now += 59
    before = _value(metrics, "interruption_events_total")
    clock.now += 1
    after = _value(metrics, "interruption_events_total")

    assert (first, before, after) == (1, 1, 6)


def test_without_a_hold_the_present_total_is_shown_at_once() -> None:
    metrics = Metrics(monotonic=_Clock())
    metrics.restore(StoredState(cluster_row(1, released=True)))
    metrics.show(Applied(changed=cluster_row(6, released=True)))

    assert _value(metrics, "interruption_events_total") == 6


def test_a_state_that_is_read_again_is_not_shown_as_restored() -> None:
    clock = _Clock()
    metrics = Metrics(hold_seconds=60, monotonic=clock)
    metrics.restore(StoredState(cluster_row(1, released=True)))
    _value(metrics, "interruption_events_total")
    clock.now += 60
    metrics.restore(StoredState(cluster_row(9, released=True)))

    assert _value(metrics, "interruption_events_total") == 9


def test_a_stopping_exporter_shows_what_it_counted() -> None:
    clock = _Clock()
    metrics = Metrics(hold_seconds=60, monotonic=clock)
    metrics.restore(StoredState(cluster_row(1, released=True)))
    metrics.show(Applied(changed=cluster_row(6, released=True)))
    _value(metrics, "interruption_events_total")

    metrics.shorten_hold()
    clock.now += 0.1

    assert _value(metrics, "interruption_events_total") == 6


def test_the_exporters_own_counters_show_0_until_the_hold_ends() -> None:
    clock = _Clock()
    metrics = Metrics(hold_seconds=60, monotonic=clock)
    metrics.count_store_reset()

    first = _value(metrics, f"{OWN}_store_resets_total")
    clock.now += 60

    assert (first, _value(metrics, f"{OWN}_store_resets_total")) == (0, 1)


def test_a_collector_that_drops_first_samples_sees_every_interruption_over_moves() -> None:
    clock, collector, counted = _Clock(), ManagedCollector(), 0
    for _ in range(5):
        metrics = Metrics(hold_seconds=60, monotonic=clock)
        metrics.restore(StoredState(cluster_row(counted, released=True)))
        collector.replace()
        for step in range(6):
            counted += step + 1  # also between the start and the first scrape
            metrics.show(Applied(changed=cluster_row(counted, released=True)))
            collector.scrape(_exposition(metrics))
            clock.now += 30
        metrics.shorten_hold()
        clock.now += 30
        collector.scrape(_exposition(metrics))

    assert sum(collector.grown("interruption_events_total").values()) == counted
