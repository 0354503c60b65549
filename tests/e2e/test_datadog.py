"""Datadog's OpenMetrics check with the configuration of docs/scraping.md, against a running exporter."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import pytest
import yaml
from uv import find_uv_bin

from tests.support.docs import DOCS, blocks
from tests.support.entries import insert, preempted
from tests.support.process import eventually
from tests.support.program import ExporterProcess, overridden, set_ahead
from tests.support.requirement import require

pytestmark = pytest.mark.usefixtures("quick_programs")

PROGRAM: Final = Path(__file__).parents[1] / "support" / "datadog_check.py"
# The check's package, and the packages that it imports without naming them as dependencies.
PACKAGES: Final = (
    "datadog-checks-base==38.7.0",
    *("binary", "cachetools", "jellyfish", "lazy-loader", "prometheus-client", "pydantic", "python-dateutil"),
    *("pyyaml", "requests", "requests-toolbelt", "requests-unixsocket2", "simplejson", "wrapt"),
)
ENVIRONMENT: Final = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
HOLD_SECONDS: Final = 3600
GAUGE: Final = 0
"""The Agent's number for the type of a gauge."""
DEFAULT_SERIES: Final = 2000


class Sample(NamedTuple):
    """A sample that the Agent gets from the check."""

    name: str
    tags: tuple[str, ...]
    kind: int
    value: float
    counts_first: bool
    """The first value of a new series is growth; else it is the series' zero."""


class Agent:
    """The check, and a model of how the Agent stores a counter, during a `with` block.

    https://docs.datadoghq.com/metrics/custom_metrics/agent_metrics_submission/#monotonic-count
    """

    def __init__(self, python: Path, instance: Mapping[str, Any]) -> None:
        self._command = [str(python), str(PROGRAM), json.dumps(instance)]
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}
        self.grown: dict[tuple[str, tuple[str, ...]], float] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()

    def scrape(self, *, fails: bool = False) -> list[Sample]:
        """Run the check once, and return its samples."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert bool(answer["problem"]) == fails, answer["problem"]
        samples = [Sample(name, tuple(tags), *rest) for name, tags, *rest in answer["samples"]]
        for sample in samples:
            if sample.kind != GAUGE:
                self._take(sample)
        return samples

    def _take(self, sample: Sample) -> None:
        series = sample.name, sample.tags
        last = self._last.get(series)
        if last is not None and sample.value >= last:
            growth = sample.value - last
        else:
            growth = sample.value if sample.counts_first else 0.0
        self.grown[series] = self.grown.get(series, 0.0) + growth
        self._last[series] = sample.value

    def seen(self, name: str) -> float:
        """Return how much the Agent saw a counter grow, all its series together."""
        return sum(value for (of, _), value in self.grown.items() if of == name)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the check, and return its interpreter."""
    folder = tmp_path_factory.mktemp("datadog") / "venv"
    uv, environment = find_uv_bin(), ENVIRONMENT | {"VIRTUAL_ENV": str(folder), "UV_NATIVE_TLS": "true"}
    subprocess.run([uv, "venv", "--quiet", folder], check=True)
    installed = subprocess.run(
        [uv, "pip", "install", "--quiet", *PACKAGES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    require(f"a package registry ({installed.stderr.strip()})", installed.returncode == 0)
    return folder / "bin" / "python"


class Watched:
    """An exporter whose hold ends only by `end_hold`, and the page's configuration for it."""

    def __init__(self, directory: Path, hold_seconds: float) -> None:
        self._clock = directory / "seconds-ahead"
        self._ahead = 0
        set_ahead(self._clock, 0)
        self.exporter = ExporterProcess(
            directory, command=overridden(monotonic=self._clock), prometheus={"hold_seconds": hold_seconds}
        )
        [block] = [one for one in blocks(DOCS / "scraping.md", "yaml") if one.mark == "datadog"]
        [instance] = yaml.safe_load(block.code)["instances"]
        endpoint = f"http://{self.exporter.metrics_address}/metrics"
        self.instance: dict[str, Any] = instance | {"openmetrics_endpoint": endpoint}

    def interrupt(self, cluster: str) -> None:
        """Push an interruption together with its label set."""
        assert self.exporter.outcome(preempted(f"gke-{cluster}")) == "pending"
        assert self.exporter.outcome(insert(f"gke-{cluster}", cluster=cluster)) == "tracked"

    def end_hold(self, cluster: str) -> None:
        """Set the clock ahead by the hold, and wait until the interruption is shown."""
        self._ahead += HOLD_SECONDS
        set_ahead(self._clock, self._ahead)
        eventually(lambda: self.exporter.interruptions(cluster) == 1, within=10, what="it is shown")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as running:
        yield running


def watched(running: ExitStack, directory: Path, *, hold_seconds: float = HOLD_SECONDS) -> Watched:
    made = Watched(directory, hold_seconds)
    running.enter_context(made.exporter)
    return made


def test_each_series_has_its_name_without_total_and_each_tag_once(
    running: ExitStack, tmp_path: Path, python: Path
) -> None:
    made = watched(running, tmp_path)
    made.interrupt("shop")
    agent = running.enter_context(Agent(python, made.instance))
    samples = agent.scrape()
    names = {sample.name for sample in samples}

    assert {"gke.spot_interruptions.count", "gke.interruption_events.count", "gke.spot_instances"} <= names
    assert not any("_total" in name for name in names)
    for sample in samples:
        keys = [tag.partition(":")[0] for tag in sample.tags]
        assert len({*keys}) == len(keys), sample
        assert {"project", "zone", "version"}.isdisjoint(keys)
        if sample.name == "gke.spot_interruptions.count":
            assert {"instance_project", "instance_zone", "kubernetes_cluster"} <= {*keys}


def test_without_tag_by_endpoint_false_the_tag_endpoint_is_there_twice(
    running: ExitStack, tmp_path: Path, python: Path
) -> None:
    made = watched(running, tmp_path)
    agent = running.enter_context(Agent(python, made.instance | {"tag_by_endpoint": True}))
    pushes = [
        one for one in agent.scrape() if one.name == "gke.spot_interruption_exporter_push_messages.count"
    ]

    assert pushes
    for sample in pushes:
        assert [tag.partition(":")[0] for tag in sample.tags].count("endpoint") == 2


@pytest.mark.parametrize("hold_seconds", [HOLD_SECONDS, 0])
def test_with_the_hold_a_label_set_that_appears_after_a_failed_scrape_loses_nothing(
    running: ExitStack, tmp_path: Path, python: Path, hold_seconds: float
) -> None:
    made = watched(running, tmp_path, hold_seconds=hold_seconds)
    agent = running.enter_context(Agent(python, made.instance))
    agent.scrape()
    made.exporter.process.stop()
    agent.scrape(fails=True)
    made.exporter.process.start()
    made.interrupt("shop")
    agent.scrape()
    if hold_seconds:
        made.end_hold("shop")
    agent.scrape()

    assert agent.seen("gke.interruption_events.count") == (1 if hold_seconds else 0)
    assert agent.seen("gke.spot_interruptions.count") == (1 if hold_seconds else 0)


def test_the_check_drops_series_beyond_its_default_limit_and_the_page_raises_it(
    running: ExitStack, tmp_path: Path, python: Path
) -> None:
    made = watched(running, tmp_path)
    for number in range(120):
        made.exporter.push(insert(f"gke-{number}", cluster=f"cluster-{number}"))
    by_default = {key: value for key, value in made.instance.items() if key != "max_returned_metrics"}
    limited = running.enter_context(Agent(python, by_default)).scrape()
    samples = running.enter_context(Agent(python, made.instance)).scrape()

    assert len(limited) == DEFAULT_SERIES < len(samples) < made.instance["max_returned_metrics"]
    interruptions = [one for one in samples if one.name == "gke.spot_interruptions.count"]
    assert len(interruptions) >= 120


@pytest.mark.parametrize("use_process_start_time", [False, True])
def test_use_process_start_time_counts_all_totals_again_if_the_exporter_starts_later(
    running: ExitStack, tmp_path: Path, python: Path, *, use_process_start_time: bool
) -> None:
    made = watched(running, tmp_path, hold_seconds=0)
    agent = running.enter_context(
        Agent(python, made.instance | {"use_process_start_time": use_process_start_time})
    )
    made.exporter.process.stop()
    made.exporter.process.start()
    made.interrupt("shop")
    agent.scrape()

    assert agent.seen("gke.interruption_events.count") == (1 if use_process_start_time else 0)
