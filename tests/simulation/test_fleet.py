"""The simulated fleet matches its own parameters, because other tests use it as the ground truth."""

from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import pairwise
from math import sqrt

import pytest

from tests.simulation.fleet import DAY, Fleet, hazard, stock_out
from tests.simulation.truth import HOUR

BEGINS = 1_780_000_000.0
SIGMAS = 4


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet(3, BEGINS, 7 * DAY)


def preemptions(fleet: Fleet) -> set[tuple[str, str]]:
    """Return every preemption that Google pushes, without repetitions."""
    return {
        (event.entry["protoPayload"]["resourceName"], event.entry["operation"]["id"])
        for event in fleet.events
        if event.endpoint == "interruption" and not event.forged
    }


def test_the_same_seed_makes_the_same_fleet_and_another_makes_another(fleet: Fleet) -> None:
    assert Fleet(3, BEGINS, 7 * DAY).events == fleet.events
    assert Fleet(4, BEGINS, 7 * DAY).events != fleet.events


def test_a_later_start_shifts_all_events(fleet: Fleet) -> None:
    later = Fleet(3, BEGINS + 90 * DAY, 7 * DAY)

    assert len(later.events) == len(fleet.events)
    assert all(
        b.at - a.at == pytest.approx(90 * DAY, abs=1e-3)
        for a, b in zip(fleet.events, later.events, strict=True)
    )


def test_the_truth_has_every_preemption_that_is_pushed_once(fleet: Fleet) -> None:
    pushed = preemptions(fleet)
    other_vms = {name for name, _ in pushed if "/render-" in name}

    counted = fleet.truth.interruptions(0, float("inf"))[()]
    assert counted == len(pushed) - len(other_vms)


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
        if incarnation.interrupted and incarnation.counted_at == incarnation.announced_at
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


def test_no_event_reports_a_removed_instance(fleet: Fleet) -> None:
    removed = [
        incarnation for incarnation in fleet.truth.incarnations if incarnation.ended_at in fleet.rescalings
    ]
    assert len(removed) > 10

    after = {
        event.entry["resource"]["labels"]["instance_id"]
        for event in fleet.events
        if event.at > min(fleet.rescalings) and event.endpoint == "interruption"
    }
    assert after.isdisjoint(incarnation.id for incarnation in removed)
