"""A short run of the simulation; `python -m tests.chaos.simulation` runs a long one."""

import logging
from collections.abc import Iterator

import pytest

from tests.chaos.simulation import run

SEED = 8
STEPS = 1500


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_the_counts_are_those_of_the_model_whatever_time_and_disk_do() -> None:
    report = run(SEED, STEPS)

    assert report.events > 1000
    assert report.faults.keys() >= {"kill", "outage", "full_disk", "clock_jump"}


def test_the_seed_decides_everything() -> None:
    one, other = (run(SEED, 150) for _ in range(2))

    assert (one.events, one.simulated_days, one.faults) == (other.events, other.simulated_days, other.faults)
