from collections.abc import Callable
from typing import Any

import pytest

from app.domain.history import DAY_SECONDS, HOUR_SECONDS
from app.domain.instances import UNKNOWN_LABELS
from app.metrics import Metrics
from app.web.checks import Check, State, checks
from app.web.facts import Facts, Ledger
from tests.web.facts import NOW, facts, history, new_metrics, totals

OK, ATTENTION, NONE, OFF = State.OK, State.ATTENTION, State.NONE, State.OFF


def check(facts: Facts, name: str) -> Check:
    (found,) = [one for one in checks(facts) if one.name == name]
    return found


def told(times: int, tell: Callable[[Metrics], None], *more: Callable[[Metrics], None]) -> Metrics:
    metrics = new_metrics()
    for _ in range(times):
        tell(metrics)
    for one in more:
        one(metrics)
    return metrics


@pytest.mark.parametrize(
    ("fields", "state", "finding"),
    [
        ({}, OK, "up for 1 d, ready"),
        ({"missing": ["a", "b"]}, ATTENTION, "up for 1 d, not ready: a; b"),
        ({"ailing": "not running: writer", "missing": ["a"]}, ATTENTION, "not running: writer"),
    ],
)
def test_the_service(fields: dict[str, Any], state: State, finding: str) -> None:
    service = check(facts(**fields), "Service")
    assert (service.state, service.finding) == (state, finding)


@pytest.mark.parametrize(
    ("week", "ago", "state", "finding"),
    [
        pytest.param(0, None, NONE, "none since the start", id="never"),
        pytest.param(7, None, NONE, "none since the start", id="never-and-rare"),
        pytest.param(
            70,
            None,
            ATTENTION,
            "none since the start; about 10 interruptions would be usual in that time",
            id="never-though-usual",
        ),
        pytest.param(10_000, 60, OK, "the last one 1 min ago", id="just-now"),
        pytest.param(10_000, 1799, OK, "the last one 29 min 59 s ago", id="a-short-silence"),
        pytest.param(70, HOUR_SECONDS * 11, OK, "the last one 11 h ago", id="rare"),
        pytest.param(
            70,
            HOUR_SECONDS * 13,
            ATTENTION,
            "the last one 13 h ago; about 5 interruptions would be usual in that time",
            id="a-long-silence",
        ),
    ],
)
def test_a_silence_is_judged_by_what_is_usual(
    week: int, ago: float | None, state: State, finding: str
) -> None:
    metrics = new_metrics()
    if ago is not None:
        metrics.pushes["interruption"].last_at = NOW - ago
    found = check(facts(metrics, ledger=Ledger([history(week=week)])), "Pushes of interruptions")
    assert (found.state, found.finding) == (state, finding)


def test_outcomes_are_told_most_first() -> None:
    metrics = told(
        3,
        lambda m: m.pushes["creation"].answered("tracked"),
        lambda m: m.pushes["creation"].answered("ignored"),
    )
    metrics.pushes["creation"].last_at = NOW - 10

    finding = check(facts(metrics), "Pushes of creations").finding
    assert finding == "the last one 10 s ago; 3 tracked, 1 ignored since the start"


def accept(metrics: Metrics) -> None:
    for _ in range(95):
        metrics.pushes["creation"].answered("tracked")


@pytest.mark.parametrize(
    ("metrics", "authentication", "others"),
    [
        pytest.param(new_metrics(), OK, OK, id="none"),
        pytest.param(
            told(1, lambda m: m.pushes["creation"].refused("not_authenticated")), ATTENTION, OK, id="all"
        ),
        pytest.param(
            told(4, lambda m: m.pushes["creation"].refused("not_permitted"), accept), OK, OK, id="strangers"
        ),
        pytest.param(
            told(9, lambda m: m.pushes["interruption"].refused("not_permitted"), accept),
            ATTENTION,
            OK,
            id="many",
        ),
        pytest.param(
            told(9, lambda m: m.pushes["creation"].refused("store_slow"), accept), OK, ATTENTION, id="slow"
        ),
        pytest.param(
            told(1, lambda m: m.pushes["creation"].refused("internal"), accept), OK, ATTENTION, id="a-bug"
        ),
    ],
)
def test_refusals(metrics: Metrics, authentication: State, others: State) -> None:
    assert check(facts(metrics), "Refused for authentication").state is authentication
    assert check(facts(metrics), "Refused for other reasons").state is others


@pytest.mark.parametrize(
    ("metrics", "state", "finding"),
    [
        (new_metrics(), NONE, "no event yet"),
        (
            told(
                99,
                lambda m: m.pushes["creation"].answered("tracked", 0.7),
                lambda m: m.pushes["creation"].answered("tracked", 20),
            ),
            OK,
            "creations: half within 1 s, 99 % within 1 s of their log time",
        ),
        (
            told(5, lambda m: m.pushes["interruption"].answered("tracked", 61)),
            ATTENTION,
            "interruptions: half within 5 min, 99 % within 5 min of their log time",
        ),
        (
            told(5, lambda m: m.pushes["creation"].answered("tracked", 8 * DAY_SECONDS)),
            ATTENTION,
            "creations: half later than can be told, 99 % later than can be told of their log time",
        ),
    ],
)
def test_delays_are_told_by_the_bounds_of_their_histogram(
    metrics: Metrics, state: State, finding: str
) -> None:
    found = check(facts(metrics), "Delay of events")
    assert (found.state, found.finding) == (state, finding)


@pytest.mark.parametrize(
    ("waiting", "week", "state"),
    [(0, 0, OK), (4, 0, OK), (5, 0, ATTENTION), (50, 1000, OK), (101, 1000, ATTENTION)],
)
def test_waiting_interruptions(waiting: int, week: int, state: State) -> None:
    assert (
        check(facts(waiting=waiting, ledger=Ledger([history(week=week)])), "Waiting interruptions").state
        is state
    )


@pytest.mark.parametrize(
    ("unknown", "known", "state", "finding"),
    [
        (0, 0, NONE, "no interruption yet"),
        (4, 0, OK, "4 of 4 interruptions since counting began"),
        (5, 96, OK, "5 of 101 interruptions since counting began"),
        (6, 94, ATTENTION, "6 of 100 interruptions since counting began, 6 %"),
    ],
)
def test_unknown_interruptions(unknown: int, known: int, state: State, finding: str) -> None:
    rows = [totals(UNKNOWN_LABELS, interruptions=unknown), totals(interruptions=known)]
    found = check(facts(label_sets=rows), "Counted as unknown")
    assert (found.state, found.finding) == (state, finding)


def test_each_projects_fleet_is_told() -> None:
    metrics = new_metrics("fresh", "stale", "failing", "untried")
    metrics.listed("fresh", at=NOW - 240, seconds=3.2, instances=118)
    metrics.listing_failed("fresh", "quota")
    metrics.listed("stale", at=NOW - 1900, seconds=61, instances=1)
    metrics.listing_failed("failing", "timeout")
    told = {one.name: (one.state, one.finding) for one in checks(facts(metrics)) if "Fleet" in one.name}

    assert told == {
        "Fleet of fresh": (
            OK,
            "118 GKE instances listed 4 min ago, in 3.2 s; failed since the start: 1 quota",
        ),
        "Fleet of stale": (ATTENTION, "1 GKE instance listed 31 min 40 s ago, in 1 min 1 s"),
        "Fleet of failing": (ATTENTION, "not listed since the start; failed since the start: 1 timeout"),
        "Fleet of untried": (NONE, "not listed since the start"),
    }
    assert check(facts(), "Fleet").state is OFF


@pytest.mark.parametrize(("seconds", "state"), [(0.004, OK), (3.0, ATTENTION)])
def test_commits(seconds: float, state: State) -> None:
    found = check(facts(told(5, lambda m: m.commit_seconds.observe(seconds))), "Store commits")
    assert found.state is state


def test_accidents_are_told_when_they_have_happened() -> None:
    metrics = new_metrics()
    metrics.reset()
    usual = {one.name for one in checks(facts())}
    more = [
        one for one in checks(facts(metrics, ledger=None, ledger_trouble="away")) if one.name not in usual
    ]

    assert [(one.name, one.state) for one in more] == [("Ledger", ATTENTION), ("Store", ATTENTION)]
