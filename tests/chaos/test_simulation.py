"""Short runs of the simulation; `python -m tests.chaos.simulation` makes long ones."""

from collections.abc import Set as AbstractSet

import pytest

from tests.chaos.simulation.runs import STORES, run

ON_SQLITE = {"kill", "outage", "full_disk", "jump"}
ON_REDIS = {"kill", "race", "lose_reply", "save", "restore", "flush"}


@pytest.mark.parametrize(
    ("store", "seed", "steps", "faults"),
    [("sqlite", 8, 1500, ON_SQLITE), ("redis", 77, 700, ON_REDIS)],
    ids=STORES,
)
def test_the_counts_are_those_of_the_model_with_any_faults_of_time_and_store(
    store: str, seed: int, steps: int, faults: AbstractSet[str]
) -> None:
    report = run(store, seed, steps)

    assert report.events > 1000
    assert report.faults.keys() >= faults


@pytest.mark.parametrize("store", STORES)
def test_the_seed_decides_everything(store: str) -> None:
    one, other = (run(store, 8, 150) for _ in range(2))

    assert (one.events, one.simulated_days, one.faults) == (other.events, other.simulated_days, other.faults)
