"""The exporter in a real Prometheus: first interruptions, and counters over restarts."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.entries import insert, preempted
from tests.support.process import eventually
from tests.support.program import ExporterProcess, overridden, set_ahead
from tests.support.prometheus import Prometheus, Target

pytestmark = pytest.mark.usefixtures("quick_programs")

# Named apart by a label of the target's.
PROMPT, HOLDING = {"exporter": "prompt"}, {"exporter": "holding"}
HOLD_SECONDS = 3600


class Scraped:
    """Two exporters, of which one holds new label sets back, and the Prometheus that scrapes both."""

    def __init__(
        self, prometheus: Prometheus, prompt: ExporterProcess, holding: ExporterProcess, clock: Path
    ) -> None:
        self.prometheus = prometheus
        self.prompt = prompt
        self.holding = holding
        self._clock = clock
        self._ahead = 0

    def release(self, cluster: str) -> None:
        """Set the clock of the holding exporter ahead by the hold, and wait until the count is shown."""
        self._ahead += HOLD_SECONDS
        set_ahead(self._clock, self._ahead)
        eventually(lambda: self.holding.interruptions(cluster) == 1, within=10, what="it is shown")

    def increase(self, exporter: str, cluster: str, of: str = "interruption_events_total") -> float | None:
        """As people write it; a little more than what was counted, because it is extrapolated."""
        labels = f'exporter="{exporter}", kubernetes_cluster="{cluster}"'
        return self.prometheus.value(f"sum(increase({of}{{{labels}}}[1h]))")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    one, two, three = (tmp_path_factory.mktemp(name) for name in ("prompt", "holding", "prometheus"))
    clock = two / "seconds-ahead"
    set_ahead(clock, 0)
    prompt = ExporterProcess(one)
    holding = ExporterProcess(
        two, command=overridden(monotonic=clock), prometheus={"hold_seconds": HOLD_SECONDS}
    )
    targets = [Target(prompt.metrics_address, PROMPT), Target(holding.metrics_address, HOLDING)]
    # Prometheus is started first, because it needs 5 s to its first scrape.
    with Prometheus(three, targets, scrape_interval=0.5) as prometheus, prompt, holding:
        prometheus.wait_for_scrapes()
        yield Scraped(prometheus, prompt, holding, clock)


def test_the_first_interruption_of_a_cluster_increases_its_counter(scraped: Scraped) -> None:
    scraped.prompt.push(insert("gke-first", cluster="first"))
    scraped.prometheus.wait_for_scrapes(2)
    assert scraped.increase("prompt", "first") == 0

    scraped.prompt.push(preempted("gke-first"))
    scraped.prometheus.wait_for_scrapes(2)
    assert 1 <= (scraped.increase("prompt", "first") or 0) < 2
    assert 1 <= (scraped.increase("prompt", "first", of="spot_interruptions_total") or 0) < 2


def test_with_the_hold_a_first_interruption_shows_even_if_its_label_set_is_new(
    scraped: Scraped,
) -> None:
    for exporter in (scraped.prompt, scraped.holding):
        assert exporter.outcome(preempted("gke-backlog")) == "pending"
        assert exporter.outcome(insert("gke-backlog", cluster="backlog")) == "tracked"
    # In the store at once, and shown at once where nothing is held back.
    assert scraped.prompt.interruptions("backlog") == 1
    assert scraped.holding.interruptions("backlog") == 0

    scraped.prometheus.wait_for_scrapes(1)
    scraped.release("backlog")
    scraped.prometheus.wait_for_scrapes(2)

    assert 1 <= (scraped.increase("holding", "backlog") or 0) < 2
    assert 1 <= (scraped.increase("holding", "backlog", of="spot_interruptions_total") or 0) < 2
    lifetimes = "spot_instance_lifetime_seconds_count"
    assert 1 <= (scraped.increase("holding", "backlog", of=lifetimes) or 0) < 2
    # Without it Prometheus never learns of the first one. This is what hold_seconds is for.
    assert scraped.increase("prompt", "backlog") == 0


def test_a_value_that_is_held_back_survives_a_kill(scraped: Scraped) -> None:
    exporter = scraped.holding
    exporter.push(preempted("gke-killed"))
    exporter.push(insert("gke-killed", cluster="killed"))
    scraped.prometheus.wait_for_scrapes(1)
    assert exporter.interruptions("killed") == 0

    exporter.process.kill()
    exporter.process.start()
    scraped.prometheus.wait_for_scrapes(1)
    assert exporter.interruptions("killed") == 0
    scraped.release("killed")
    scraped.prometheus.wait_for_scrapes(2)

    assert 1 <= (scraped.increase("holding", "killed") or 0) < 2
    # What was shown once is never held back again.
    exporter.process.kill()
    exporter.process.start()
    assert exporter.interruptions("killed") == 1


def test_counters_never_go_down_over_kills_and_restarts(scraped: Scraped) -> None:
    exporter, prometheus = scraped.prompt, scraped.prometheus
    kills = 3
    exporter.push(insert("gke-restarted", cluster="restarted"))
    prometheus.wait_for_scrapes(1)
    for life in range(kills):
        for number in range(5):
            assert exporter.outcome(preempted("gke-restarted", operation=f"{life}-{number}")) == "counted"
        prometheus.wait_for_scrapes(1)
        exporter.process.kill()
        eventually(
            lambda: prometheus.value('up{exporter="prompt"}') == 0, within=10, what="the target is down"
        )
        exporter.process.start()
        prometheus.wait_for_scrapes(1)

    assert prometheus.value('up{exporter="prompt"}') == 1
    # The durable counters and the histogram: the other series begin at 0 in each process.
    durable = (
        "interruption_events_total"
        "|spot_(interruptions|instances_created|instance_creations_failed|instance_seconds)_total"
        "|spot_instance_lifetime_seconds_(bucket|count|sum)"
    )
    series = prometheus.raw(f'{{__name__=~"{durable}", exporter="prompt"}}', 120)
    assert len({one.labels["__name__"] for one in series}) == 8
    for one in series:
        assert all(earlier <= later for (_, earlier), (_, later) in pairwise(one.samples)), one
    [restarted] = [
        [value for _, value in one.samples]
        for one in series
        if one.labels["__name__"] == "interruption_events_total"
        and one.labels["kubernetes_cluster"] == "restarted"
    ]
    assert restarted[0] == 0
    assert restarted[-1] == 5 * kills
    assert 5 * kills <= (scraped.increase("prompt", "restarted") or 0) < 5 * kills + 2
