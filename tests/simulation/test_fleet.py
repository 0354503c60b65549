"""The simulated fleet matches its own parameters, because other tests use it as the ground truth."""

from bisect import bisect_left
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from math import sqrt

import pytest

from tests.simulation.fleet import DAY, LATER_THAN_OPERATION, LOST, Fleet, hazard, stock_out
from tests.simulation.truth import HOUR

BEGINS = 1_780_000_000.0
READINGS = [BEGINS + number * DAY for number in range(1, 8)]
SIGMAS = 4


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(3, BEGINS, 7 * DAY, READINGS)


def first_pushes(fleet: Fleet) -> dict[str, float]:
    """Return the time of the first push of each interruption, by its operation id."""
    pushes: dict[str, float] = {}
    for event in fleet.events:
        if event.endpoint == "interruption" and not event.forged:
            pushes.setdefault(event.entry["operation"]["id"], event.at)
    return pushes


def interruptions(fleet: Fleet) -> dict[str, float]:
    """Return the times of the interruptions of nodes and unknown VMs, by their operation ids."""
    return {
        operation.name: datetime.fromisoformat(str(operation.inserted)).timestamp()
        for operations in fleet.operations(fleet.ends).values()
        for operation in operations
        if not operation.instance.startswith("render-")
    }


def test_the_same_seed_makes_the_same_fleet_and_another_makes_another(fleet: Fleet) -> None:
    assert Fleet(3, BEGINS, 7 * DAY, READINGS).events == fleet.events
    assert Fleet(4, BEGINS, 7 * DAY, READINGS).events != fleet.events


def test_a_later_start_shifts_all_events(fleet: Fleet) -> None:
    later = Fleet(3, BEGINS + 90 * DAY, 7 * DAY, [reading + 90 * DAY for reading in READINGS])

    assert len(later.events) == len(fleet.events)
    assert all(
        b.at - a.at == pytest.approx(90 * DAY, abs=1e-3)
        for a, b in zip(fleet.events, later.events, strict=True)
    )


def test_the_truth_has_every_interruption_that_a_push_or_an_operation_reports_once(fleet: Fleet) -> None:
    pushes = first_pushes(fleet)
    reported = [
        operation
        for operation, at in interruptions(fleet).items()
        if operation in pushes or fleet.read_at(at) is not None
    ]

    assert fleet.truth.interruptions(0, float("inf"))[()] == len(reported)


def test_some_interruptions_are_never_pushed_and_some_after_their_operation_was_read(fleet: Fleet) -> None:
    pushes = first_pushes(fleet)
    read = {
        operation: read_at
        for operation, at in interruptions(fleet).items()
        if (read_at := fleet.read_at(at)) is not None
    }
    lost = sum(operation not in pushes for operation in read)
    late = sum(pushes.get(operation, 0.0) > read_at for operation, read_at in read.items())

    assert lost / len(read) == pytest.approx(LOST, rel=0.3)
    assert late / len(read) == pytest.approx(LATER_THAN_OPERATION, rel=0.4)


def test_interruptions_come_at_the_rate_of_the_machine_type_and_zone(fleet: Fleet) -> None:
    by = ("machine_type", "zone")
    expected = fleet.truth.expected(fleet.begins, fleet.ends, *by)
    hours = fleet.truth.instance_hours(fleet.begins, fleet.ends, *by)
    interrupted: Counter[tuple[str, ...]] = Counter()
    for incarnation in fleet.truth.incarnations:
        if incarnation.interrupted and incarnation.id:
            interrupted[incarnation.labels[5], incarnation.labels[4]] += 1

    stormy = {(storm.machine_type, storm.zone) for storm in fleet.storms}
    assert expected.keys() > stormy
    for key, number in expected.items():
        assert abs(interrupted[key] - number) < SIGMAS * sqrt(number), key
        calm = hazard(*key) * hours[key]
        assert number > 1.1 * calm if key in stormy else number == pytest.approx(calm), key


def test_creations_fail_with_the_probability_of_the_machine_type_and_zone(fleet: Fleet) -> None:
    by = ("machine_type", "zone")
    created = fleet.truth.created(fleet.begins, fleet.ends, *by)
    failed = fleet.truth.failed(fleet.begins, fleet.ends, *by)

    for key, number in created.items():
        share = stock_out(*key)
        assert abs(failed[key] - number * share) < SIGMAS * sqrt(number * share) + 1, key


def test_instance_hours_are_the_integral_of_the_instances_alive(fleet: Fleet) -> None:
    step = HOUR / 2
    times = [fleet.begins + (n + 0.5) * step for n in range(int(fleet.seconds / step))]
    sampled: Counter[tuple[str, ...]] = Counter()
    for at in times:
        sampled.update(fleet.truth.alive(at, "machine_type", "zone"))

    for key, hours in fleet.truth.instance_hours(fleet.begins, fleet.ends, "machine_type", "zone").items():
        assert sampled[key] * step / HOUR == pytest.approx(hours, rel=0.01), key


def test_a_name_comes_back_with_a_new_id_and_has_one_incarnation_at_a_time(fleet: Fleet) -> None:
    by_name = defaultdict(list)
    for incarnation in fleet.truth.incarnations:
        by_name[incarnation.name].append(incarnation)

    assert sum(len(of_name) > 1 for of_name in by_name.values()) > 100
    for of_name in by_name.values():
        assert len({incarnation.id for incarnation in of_name}) == len(of_name)
        ordered = sorted(of_name, key=lambda incarnation: incarnation.created_at)
        assert all(before.ended_at < after.created_at for before, after in pairwise(ordered))


def test_clusters_with_the_same_name_differ_in_their_location(fleet: Fleet) -> None:
    locations = defaultdict(set)
    for incarnation in fleet.truth.incarnations:
        locations[incarnation.labels[1]].add(incarnation.labels[2])

    assert len(locations["shop"]) == 2


def test_messages_are_repeated_out_of_order_and_late(fleet: Fleet) -> None:
    genuine = [event for event in fleet.events if not event.forged]
    copies = Counter(id(event.entry) for event in genuine)
    assert sum(number > 1 for number in copies.values()) > 100
    assert sum(event.message_id is not None for event in genuine) > 30

    early = [
        incarnation
        for incarnation in fleet.truth.incarnations
        if incarnation.counted_at is not None and incarnation.counted_at == incarnation.announced_at
    ]
    assert len(early) > 5
    assert all(
        incarnation.announced_at and incarnation.announced_at > incarnation.ended_at for incarnation in early
    )


def test_events_are_in_order_and_a_listing_has_the_instances_alive(fleet: Fleet) -> None:
    times = [event.at for event in fleet.events]
    assert times == sorted(times)

    at = times[bisect_left(times, fleet.begins + 3 * DAY)]
    listed = fleet.listed(at)
    spot = sum(
        instance.scheduling["preemptible"] is True for instances in listed.values() for instance in instances
    )
    everything = sum(map(len, listed.values()))
    assert spot == fleet.truth.alive(at)[()]
    assert everything > spot


def test_each_instance_that_ends_is_deleted(fleet: Fleet) -> None:
    ended = {
        incarnation.id
        for incarnation in fleet.truth.incarnations
        if incarnation.id and incarnation.failed_at is None and incarnation.ended_at < fleet.ends
    }
    deleted = {
        event.entry["resource"]["labels"]["instance_id"]
        for event in fleet.events
        if event.endpoint == "creation" and event.entry["protoPayload"]["methodName"].endswith("delete")
    }

    assert len(ended) > 1000
    assert deleted == ended
