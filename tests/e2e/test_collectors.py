"""The sentences of docs/scraping.md on what a collector sees after a restart, a move, an outage and a kill.

A real Prometheus scrapes the exporter twice: with the page's configuration, and with that of the shipped
ServiceMonitor. A model of a managed collector scrapes it too.
"""

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from tests.support.collector import ManagedCollector
from tests.support.docs import DOCS, ROOT, blocks, rows
from tests.support.entries import insert, preempted
from tests.support.forwarder import Forwarder
from tests.support.process import LOOPBACK, eventually
from tests.support.program import ExporterProcess, overridden, set_ahead
from tests.support.prometheus import Prometheus, Target

pytestmark = pytest.mark.usefixtures("quick_programs")

PAGE: Final = DOCS / "scraping.md"
POD: Final = "spot-interruption-exporter-0"
COUNTERS: Final = ("interruption_events_total", "spot_interruptions_total", "spot_instances_created_total")
HOLD_SECONDS: Final = 3600
PLAIN, OPERATOR, MANAGED = "Prometheus", "Prometheus Operator", "Managed Service for Prometheus"
ONCE: Final = "It counts each event once."
SEEN: Final = {
    PLAIN: (
        f"The series continue. {ONCE}",
        f"The series continue, because `instance` is not an address. {ONCE}",
        f"The series have a gap, and `up` is 0. What is counted after it is growth after it. {ONCE}",
    ),
    OPERATOR: (
        f"The series continue. {ONCE}",
        f"The series continue, because `instance` is the pod's name. {ONCE}",
        f"The series have a gap, and `up` is 0. What is counted after it is growth after it. {ONCE}",
    ),
    MANAGED: (
        f"The same collector continues the series. {ONCE}",
        f"A new collector drops the first sample, which is the total at the start. {ONCE}",
        f"The series have a gap. Their first sample after it may be dropped. {ONCE}",
    ),
}
KILLED: Final = """\
- Prometheus and a managed collector that continues count each event once.
- A new managed collector misses what was committed after the last scrape before the kill: at most the
  events of one scrape interval.
- If the kill comes before the hold of the last start has ended, it misses what was committed since that
  start: at most the events of `prometheus.hold_seconds` and one scrape interval.
"""


def static(config: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """Return a scrape configuration with the address of a test's target, and these labels."""
    targets = {"static_configs": [{"targets": ["$address"], "labels": dict(labels)}]}
    return {key: value for key, value in config.items() if key != "scrape_interval"} | targets


def plain() -> dict[str, Any]:
    """Return the page's scrape configuration for Prometheus. `instance` is what the page has as target."""
    [block] = [one for one in blocks(PAGE, "yaml") if one.mark == "prometheus"]
    [config] = yaml.safe_load(block.code)["scrape_configs"]
    [[target]] = [one["targets"] for one in config["static_configs"]]
    return static(config, {"instance": target})


def operated() -> dict[str, Any]:
    """Return the scrape configuration that Prometheus Operator makes of the shipped ServiceMonitor."""
    path = ROOT / "k8s/components/prometheus-operator/servicemonitor.yaml"
    [endpoint] = yaml.safe_load(path.read_text())["spec"]["endpoints"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    config = {
        "job_name": "operated",
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "relabel_configs": [
            {names.get(key, key): value for key, value in rule.items()} for rule in endpoint["relabelings"]
        ],
    }
    return static(config, {"__meta_kubernetes_pod_name": POD, "endpoint": endpoint["port"]})


class TwoScrapes(Prometheus):
    """A Prometheus that scrapes the same target with two configurations."""

    def _write_config(self) -> None:
        [address] = {target.address for target in self._targets}
        config = {
            "global": {"scrape_interval": f"{round(self._interval * 1000)}ms"},
            "scrape_configs": [plain(), operated()],
        }
        self._config.write_text(yaml.safe_dump(config).replace("$address", address))


class Observed:
    """An exporter that moves, and the collectors that observe it.

    Its metrics have the same address on each node. The hold ends only by `end_hold`.
    """

    def __init__(self, directory: Path) -> None:
        self._clock = directory / "seconds-ahead"
        self._ahead = 0
        set_ahead(self._clock, 0)
        self._nodes = [self._node(directory / name, directory / "store.db") for name in ("one", "other")]
        self._numbers = count()
        self.node = self._nodes[0]
        self.proxy = Forwarder(_closed_port())
        address = f"{LOOPBACK}:{self.proxy.port}"
        self.prometheus = TwoScrapes(directory, [Target(address)] * 2, scrape_interval=0.5)
        self.collector = ManagedCollector()
        self.events = 0
        """The number of interruptions so far. Each is preceded by a creation."""

    def _node(self, directory: Path, store: Path) -> ExporterProcess:
        directory.mkdir()
        return ExporterProcess(
            directory,
            command=overridden(monotonic=self._clock),
            prometheus={"hold_seconds": HOLD_SECONDS, "linger_seconds": HOLD_SECONDS},
            store={"url": f"sqlite:///{store}"},
        )

    def start(self, *, elsewhere: bool = False, new_collector: bool = False, late: int = 0) -> None:
        """Start the exporter, perhaps on the other node; push late events; then let it be scraped."""
        if elsewhere:
            [self.node] = [node for node in self._nodes if node is not self.node]
        if new_collector:
            self.collector.replace()
        self.node.process.start()
        self.push(late)
        self.proxy.redirect(int(self.node.metrics_address.rpartition(":")[2]))
        self.scrape()

    def stop(self) -> None:
        """Stop the exporter by SIGTERM, and end the linger after two scrapes."""
        self.node.process.send(signal.SIGTERM)
        eventually(lambda: self.node.status("/readyz") == 503, within=10, what="the exporter is stopping")
        self.scrape()
        self.scrape()
        self.node.process.stop()
        self.proxy.redirect(_closed_port())

    def kill(self) -> None:
        """Kill the exporter with SIGKILL."""
        self.node.process.kill()
        self.proxy.redirect(_closed_port())

    def close(self) -> None:
        """Kill whatever runs."""
        for node in self._nodes:
            node.client.close()
            node.process.kill()

    def push(self, number: int) -> None:
        """Push the creations and interruptions of some instances of the same label set."""
        for name in (f"gke-{next(self._numbers)}" for _ in range(number)):
            assert self.node.outcome(insert(name, cluster="shop")) == "tracked"
            assert self.node.outcome(preempted(name)) == "counted"
        self.events += number

    def end_hold(self) -> None:
        """Set the clock ahead by the hold, and scrape until the present totals are shown."""
        self._ahead += HOLD_SECONDS
        set_ahead(self._clock, self._ahead)
        eventually(
            lambda: self.node.interruptions("shop") == self.events, within=10, what="the hold has ended"
        )
        self.scrape()

    def scrape(self) -> None:
        """Scrape once by each collector."""
        self.prometheus.wait_for_scrapes()
        self.collector.scrape(
            httpx.get(f"http://{LOOPBACK}:{self.proxy.port}/metrics", trust_env=False, timeout=60).text
        )

    def grown(self, observer: str) -> dict[str, float]:
        """Return how much an observer saw each counter grow since the beginning."""
        if observer == MANAGED:
            return {counter: sum(self.collector.grown(counter).values()) for counter in COUNTERS}
        return {counter: _growth(*self.samples(observer, counter)) for counter in COUNTERS}

    def samples(self, observer: str, counter: str) -> tuple[Sequence[tuple[float, float]], ...]:
        """Return the samples of each series of the cluster that a job of Prometheus has."""
        job = plain()["job_name"] if observer == PLAIN else "operated"
        found = self.prometheus.raw(f'{counter}{{job="{job}", kubernetes_cluster="shop"}}', 3600)
        return tuple(series.samples for series in found)


def _growth(samples: Sequence[tuple[float, float]]) -> float:
    """Return the growth of the only series. It never falls."""
    values = [value for _, value in samples]
    assert values == sorted(values)
    return values[-1] - values[0]


def _closed_port() -> int:
    """Return a port that refuses connections."""
    with socket.create_server((LOOPBACK, 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """An exporter whose label set is shown at 0 and has then had two events."""
    made = Observed(tmp_path)
    try:
        with made.proxy, made.prometheus:
            made.start(late=2)
            made.end_hold()
            yield made
    finally:
        made.close()


def restart(observed: Observed) -> None:
    observed.stop()
    observed.start(late=3)


def move(observed: Observed) -> None:
    observed.stop()
    observed.start(elsewhere=True, new_collector=True, late=3)


def outage(observed: Observed) -> None:
    observed.stop()
    eventually(
        lambda: observed.prometheus.value("sum(up)") == 0, within=10, what="Prometheus sees the outage"
    )
    observed.start(new_collector=True, late=3)


EVENTS: Final[Sequence[Callable[[Observed], None]]] = (restart, move, outage)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_each_collector_sees_what_the_page_says(
    observed: Observed, event: Callable[[Observed], None]
) -> None:
    observed.push(1)  # the scrapes during the linger have it
    event(observed)
    observed.push(1)
    observed.end_hold()

    true = dict.fromkeys(COUNTERS, float(observed.events))
    assert observed.events == 7
    for observer in SEEN:
        assert observed.grown(observer) == true, observer
    for observer in (PLAIN, OPERATOR):
        for counter in COUNTERS:
            [samples] = observed.samples(observer, counter)  # one series: it continues
            # The first sample after the start is the total at the start, and the rest is growth after it.
            assert [value for _, value in samples].count(3) > 1


def test_only_a_new_managed_collector_loses_at_a_kill_the_events_since_the_last_scrape(
    observed: Observed,
) -> None:
    observed.push(2)
    observed.scrape()
    observed.proxy.redirect(_closed_port())
    observed.push(3)
    observed.kill()
    observed.start(elsewhere=True, new_collector=True)
    observed.end_hold()

    assert observed.events == 7
    assert observed.grown(PLAIN) == observed.grown(OPERATOR) == dict.fromkeys(COUNTERS, 7)
    assert observed.grown(MANAGED) == dict.fromkeys(COUNTERS, 4)


def test_a_kill_costs_a_managed_collector_that_continues_nothing(observed: Observed) -> None:
    observed.push(3)
    observed.kill()
    observed.start()
    observed.end_hold()

    assert observed.grown(MANAGED) == dict.fromkeys(COUNTERS, 5)


def test_a_kill_during_the_hold_costs_a_new_managed_collector_what_was_committed_since_the_start(
    observed: Observed,
) -> None:
    observed.stop()
    observed.start(late=1)
    observed.push(2)
    observed.scrape()
    observed.kill()
    observed.start(elsewhere=True, new_collector=True, late=1)
    observed.end_hold()

    assert observed.events == 6
    assert observed.grown(PLAIN) == observed.grown(OPERATOR) == dict.fromkeys(COUNTERS, 6)
    assert observed.grown(MANAGED) == dict.fromkeys(COUNTERS, 3)


def test_the_page_has_the_sentences_of_these_tests() -> None:
    assert rows("seen") == [[observer, *sentences] for observer, sentences in SEEN.items()]
    assert KILLED in PAGE.read_text()


def test_telegraf_has_each_series_as_a_field_with_the_exporter_s_labels_as_its_only_tags(
    tmp_path: Path,
) -> None:
    telegraf = shutil.which("telegraf")
    if telegraf is None:
        pytest.skip("needs telegraf, which takes minutes to build; tests/docs parses the snippet")
    [block] = blocks(PAGE, "toml")
    with ExporterProcess(tmp_path) as exporter:
        exporter.push(insert("gke-1", cluster="shop"))
        target = re.sub(r"http://[^/\"]+", f"http://{exporter.metrics_address}", block.code)
        path = tmp_path / "telegraf.conf"
        path.write_text(f"[agent]\n  omit_hostname = true\n{target}")
        done = subprocess.run(
            [telegraf, "--config", path, "--test"], capture_output=True, text=True, check=True
        )
        samples = exporter.samples()

    lines = [line.removeprefix("> ").split(" ") for line in done.stdout.splitlines() if line.startswith("> ")]
    tags = {frozenset(tag.partition("=")[0] for tag in head.split(",")[1:]) for head, *_ in lines}
    fields = {field.partition("=")[0] for _, taken, _ in lines for field in taken.split(",")}
    assert {head.split(",")[0] for head, *_ in lines} == {"prometheus"}
    assert tags == {frozenset(label for label, _ in labels) for _, labels in samples}
    assert fields == {name for name, _ in samples}
