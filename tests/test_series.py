"""The series of the totals, after any history, are those of a process that has just started."""

from collections.abc import Callable
from math import inf
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest

from app.domain.instances import Labels
from app.domain.totals import LIFETIME_BOUNDS, ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.series import TotalsSeries

NOW: Final = 1_772_451_656.0
CLUSTERS: Final = st.sampled_from(["tills", 'an "old"\\one\n', "büro"])
TYPES: Final = st.sampled_from(["e2-standard-8", "n2-standard-4"])
LABEL_SETS: Final = st.builds(
    Labels, st.just("shop-prod"), CLUSTERS, st.just("europe-west1"), st.just("spot"), st.just("b"), TYPES
)
NUMBERS: Final = st.integers(0, 10**17)
SECONDS: Final = st.floats(0, 1e18)
BUCKETS: Final = len(LIFETIME_BOUNDS) + 1


@st.composite
def totals(draw: st.DrawFn) -> Totals:
    changed = Totals()
    for labels in draw(st.lists(LABEL_SETS, max_size=3)):
        changed.label_sets[labels] = LabelSetTotals(
            labels,
            interruptions=draw(NUMBERS),
            created=draw(NUMBERS),
            failed=draw(NUMBERS),
            instances=draw(NUMBERS),
            instance_seconds=draw(SECONDS),
            released=draw(st.booleans()),
        )
    for cluster in draw(st.lists(CLUSTERS, max_size=2)):
        newest = draw(st.sampled_from([None, NOW - 5.25, NOW + 10**6]))
        changed.clusters[cluster] = ClusterTotals(
            cluster, draw(NUMBERS), newest, released=draw(st.booleans())
        )
    for cluster, machine_type in draw(st.lists(st.tuples(CLUSTERS, TYPES), max_size=2)):
        changed.lifetimes[cluster, machine_type] = LifetimeTotals(
            cluster,
            machine_type,
            draw(st.lists(st.integers(0, 99), min_size=BUCKETS, max_size=BUCKETS)),
            draw(SECONDS),
            released=draw(st.booleans()),
        )
    return changed


def series(hold_seconds: float, leads: Callable[[], bool]) -> TotalsSeries:
    return TotalsSeries("kubernetes_cluster", hold_seconds, lambda: NOW, lambda: NOW, leads)


def text(shown: TotalsSeries) -> bytes:
    return b"".join(shown.render(generate_latest))


@settings(deadline=None)
@given(
    history=st.lists(st.tuples(totals(), totals(), st.booleans(), st.booleans()), min_size=1, max_size=5),
    hold_seconds=st.sampled_from([0.0, inf]),
)
def test_kept_lines_are_those_that_would_be_rendered_now(
    history: list[tuple[Totals, Totals, bool, bool]], hold_seconds: float
) -> None:
    everything, leading = Totals(), [True]
    kept = series(hold_seconds, lambda: leading[-1])
    for changed, removed, leads, scraped in history:
        leading.append(leads)
        kept.update(changed, removed)
        everything.update(changed)
        everything.remove(removed)
        if scraped:
            text(kept)
        new = series(hold_seconds, lambda: leading[-1])
        new.update(everything, Totals())

        assert text(kept) == text(new)
