import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.documents import OUTCOMES
from app.domain.batch import Applied, Shared
from app.domain.instances import UNKNOWN_LABELS
from app.domain.ledger import DAY_SECONDS, HOUR_SECONDS
from app.gcp.listing import FAILURES
from app.metrics import Metrics
from app.web.problems import leaves
from app.web.status import sentences
from app.web.status.checks import Check, State, checks
from app.web.status.snapshot import Ledger, Snapshot
from tests.support.docs import RUNBOOK
from tests.web.status.snapshots import NOW, history, new_metrics, snapshot, totals, week

OK, ATTENTION, NONE, OFF = State.OK, State.ATTENTION, State.NONE, State.OFF


def check(state: Snapshot, name: str) -> Check:
    (found,) = [one for one in checks(state) if one.name == name]
    return found


def after(times: int, record: Callable[[Metrics], None], *more: Callable[[Metrics], None]) -> Metrics:
    metrics = new_metrics()
    for _ in range(times):
        record(metrics)
    for one in more:
        one(metrics)
    return metrics


@pytest.mark.parametrize(
    ("fields", "state", "finding"),
    [
        ({}, OK, "Up for 1 d. Ready."),
        ({"not_ready_reasons": ["a", "b"]}, ATTENTION, "Up for 1 d. Not ready: a; b."),
        (
            {"unhealthy_reason": "not running: writer", "not_ready_reasons": ["a"]},
            ATTENTION,
            "Not running: writer.",
        ),
    ],
)
def test_the_service(fields: dict[str, Any], state: State, finding: str) -> None:
    service = check(snapshot(**fields), "Service")
    assert (service.state, service.finding) == (state, finding)


@pytest.mark.parametrize(
    ("week", "ago", "state", "finding"),
    [
        pytest.param(0, None, NONE, "No push since the start.", id="never"),
        pytest.param(7, None, NONE, "No push since the start.", id="never-and-rare"),
        pytest.param(
            70,
            None,
            ATTENTION,
            "No push since the start. About 10 interruptions would be usual in that time.",
            id="never-though-usual",
        ),
        pytest.param(10_000, 60, OK, "The last push came 1 min ago.", id="just-now"),
        pytest.param(10_000, 1799, OK, "The last push came 29 min 59 s ago.", id="a-short-silence"),
        pytest.param(70, HOUR_SECONDS * 11, OK, "The last push came 11 h ago.", id="rare"),
        pytest.param(
            70,
            HOUR_SECONDS * 13,
            ATTENTION,
            "The last push came 13 h ago. About 5 interruptions would be usual in that time.",
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
    found = check(snapshot(metrics, ledger=Ledger([history(week=week)])), "Pushes of interruptions")
    assert (found.state, found.finding) == (state, finding)


def test_outcomes_are_in_words_and_the_largest_number_is_first() -> None:
    metrics = after(
        3,
        lambda m: m.pushes["creation"].answered("tracked"),
        lambda m: m.pushes["creation"].answered("ignored"),
    )
    metrics.pushes["creation"].last_at = NOW - 10

    finding = check(snapshot(metrics), "Pushes of creations").finding
    assert finding == "The last push came 10 s ago. Since the start: 3 instances tracked, 1 message ignored."


def accept(metrics: Metrics) -> None:
    for _ in range(95):
        metrics.pushes["creation"].answered("tracked")


@pytest.mark.parametrize(
    ("metrics", "authentication", "others"),
    [
        pytest.param(new_metrics(), OK, OK, id="none"),
        pytest.param(
            after(1, lambda m: m.pushes["creation"].refused("not_authenticated", "why")),
            ATTENTION,
            OK,
            id="all",
        ),
        pytest.param(
            after(4, lambda m: m.pushes["creation"].refused("not_permitted", "why"), accept),
            OK,
            OK,
            id="strangers",
        ),
        pytest.param(
            after(9, lambda m: m.pushes["interruption"].refused("not_permitted", "why"), accept),
            ATTENTION,
            OK,
            id="many",
        ),
        pytest.param(
            after(9, lambda m: m.pushes["creation"].refused("store_slow", "why"), accept),
            OK,
            ATTENTION,
            id="slow",
        ),
        pytest.param(
            after(1, lambda m: m.pushes["creation"].refused("internal", "why"), accept),
            OK,
            ATTENTION,
            id="a-bug",
        ),
    ],
)
def test_refusals(metrics: Metrics, authentication: State, others: State) -> None:
    assert check(snapshot(metrics), "Refused for authentication").state is authentication
    assert check(snapshot(metrics), "Refused for other reasons").state is others


@pytest.mark.parametrize(
    ("metrics", "state", "finding"),
    [
        (new_metrics(), NONE, "No event yet."),
        (
            after(
                99,
                lambda m: m.pushes["creation"].answered("tracked", 0.7),
                lambda m: m.pushes["creation"].answered("tracked", 20),
            ),
            OK,
            "Creations: half within 1 s, 99 % within 1 s.",
        ),
        (
            after(5, lambda m: m.pushes["interruption"].answered("tracked", 61)),
            ATTENTION,
            "Interruptions: half within 5 min, 99 % within 5 min.",
        ),
        (
            after(5, lambda m: m.pushes["creation"].answered("tracked", 8 * DAY_SECONDS)),
            ATTENTION,
            "Creations: half within more than 7 d, 99 % within more than 7 d.",
        ),
        (
            after(
                9,
                lambda m: m.pushes["creation"].answered("tracked", 0.7),
                lambda m: m.pushes["creation"].answered("tracked", 8 * DAY_SECONDS),
            ),
            OK,
            "Creations: half within 1 s, 99 % within more than 7 d.",
        ),
    ],
)
def test_delays_are_shown_by_the_bounds_of_their_histogram(
    metrics: Metrics, state: State, finding: str
) -> None:
    found = check(snapshot(metrics), "Delay of events")
    assert (found.state, found.finding) == (state, finding)


@pytest.mark.parametrize(
    ("pending", "week", "state"),
    [(0, 0, OK), (4, 0, OK), (5, 0, ATTENTION), (50, 1000, OK), (101, 1000, ATTENTION)],
)
def test_pending_interruptions(pending: int, week: int, state: State) -> None:
    assert (
        check(snapshot(pending=pending, ledger=Ledger([history(week=week)])), "Pending interruptions").state
        is state
    )


@pytest.mark.parametrize(
    ("unknown", "known", "state", "finding"),
    [
        (0, 0, NONE, "No interruption in the last 7 days."),
        (4, 0, OK, "4 of 4 interruptions in the last 7 days."),
        (5, 96, OK, "5 of 101 interruptions in the last 7 days."),
        (6, 94, ATTENTION, "6 of 100 interruptions in the last 7 days, 6 %."),
    ],
)
def test_unknown_interruptions(unknown: int, known: int, state: State, finding: str) -> None:
    ledger = Ledger(
        week=[
            week(UNKNOWN_LABELS, interruptions=unknown, counted_as_unknown=unknown),
            week(interruptions=known),
        ]
    )
    found = check(snapshot(label_sets=[totals(hours=1)], ledger=ledger), "Counted as unknown")
    assert (found.state, found.finding) == (state, finding)


def test_the_fleet_of_each_project_has_a_check() -> None:
    metrics = new_metrics("fresh", "stale", "failing", "untried", "shared")
    metrics.show(Applied(shared=Shared(lease_ends_at=0, last_listed_at={"shared": NOW - 240})))
    metrics.listed("fresh", at=NOW - 240, seconds=3.2, instances=118)
    metrics.listing_failed("fresh", "credentials")
    metrics.listed("stale", at=NOW - 1900, seconds=61, instances=1)
    metrics.listing_failed("failing", "deadline")
    no_credentials = "1 listing failed since the start: no usable Google Cloud credentials."
    told = {one.name: (one.state, one.finding) for one in checks(snapshot(metrics)) if "Fleet" in one.name}

    assert told == {
        "Fleet of fresh": (
            OK,
            f"118 instances listed 4 min ago, in 3.2 s. {no_credentials}",
        ),
        "Fleet of stale": (ATTENTION, "1 instance listed 31 min 40 s ago, in 1 min 1 s."),
        "Fleet of failing": (
            ATTENTION,
            "Not listed since the start. 1 listing failed since the start: it took too long.",
        ),
        "Fleet of untried": (NONE, "Not listed since the start."),
        "Fleet of shared": (OK, "Listed 4 min ago by another process."),
    }
    assert check(snapshot(), "Fleet").state is OFF


@pytest.mark.parametrize("reason", FAILURES)
def test_a_failed_listing_advises_a_permission_only_if_one_is_missing(reason: str) -> None:
    metrics = new_metrics("shop")
    metrics.listing_failed("shop", reason)
    advice = check(snapshot(metrics), "Fleet of shop").advice

    assert ("permission" in advice) is (reason == "forbidden")
    assert advice.endswith("The log has the error.")


def test_a_fleet_is_advised_about_each_reason_of_its_failures_the_most_frequent_first() -> None:
    metrics = new_metrics("shop", "stale")
    for reason in ("forbidden", "unavailable", "unavailable", "deadline"):
        metrics.listing_failed("shop", reason)
    metrics.listed("stale", at=NOW - DAY_SECONDS, seconds=1, instances=1)

    assert check(snapshot(metrics), "Fleet of shop").advice == (
        "Check that the exporter can reach the Compute Engine API."
        " Grant the exporter the permission compute.instances.list in the project. The log has the error."
    )
    assert check(snapshot(metrics), "Fleet of stale").advice == "The log has the error."


@pytest.mark.parametrize(("seconds", "state"), [(0.004, OK), (3.0, ATTENTION)])
def test_commits(seconds: float, state: State) -> None:
    found = check(snapshot(after(5, lambda m: m.commit_seconds.observe(seconds))), "Store commits")
    assert found.state is state


def test_incidents_are_shown_after_they_have_happened() -> None:
    metrics = new_metrics()
    metrics.count_store_reset()
    usual = {one.name for one in checks(snapshot())}
    more = [
        one for one in checks(snapshot(metrics, ledger=None, ledger_error="away")) if one.name not in usual
    ]

    assert [(one.name, one.state) for one in more] == [("Ledger", ATTENTION), ("Store", ATTENTION)]


def attention(state: Snapshot) -> list[str]:
    return [one.name for one in checks(state) if one.state is ATTENTION]


def test_a_fleet_that_cannot_be_listed_is_reported_once() -> None:
    metrics = new_metrics("shop")
    metrics.listing_failed("shop", "forbidden")
    reasons = ["no project's fleet could be listed; the log has the reasons"]

    assert attention(snapshot(metrics, not_ready_reasons=reasons)) == ["Fleet of shop"]
    assert attention(snapshot(new_metrics("shop"), not_ready_reasons=reasons)) == ["Service"]


def test_refused_tokens_are_reported_once_and_not_as_a_silence_too() -> None:
    metrics = after(9, lambda m: m.pushes["creation"].refused("not_authenticated", "why"))
    usual = Ledger([history(week=10_000)])

    assert attention(snapshot(metrics, ledger=usual)) == ["Refused for authentication"]
    assert attention(snapshot(ledger=usual)) == ["Pushes of creations", "Pushes of interruptions"]


def broken() -> Iterator[Snapshot]:
    """Yield snapshots; each check needs attention in at least one of them."""
    metrics = after(9, lambda m: m.pushes["creation"].refused("internal", "why"))
    metrics.count_store_reset()
    metrics.show(Applied(overflowed=1))
    for _ in range(9):
        metrics.commit_seconds.observe(15)
        metrics.pushes["creation"].answered("tracked", 8 * DAY_SECONDS)
    metrics.listing_failed("shop", "forbidden")
    metrics.listing_failed("stale", "cut_off")
    metrics.listed("stale", at=NOW - DAY_SECONDS, seconds=1, instances=1)
    yield snapshot(
        metrics, unhealthy_reason="not running: writer", ledger=None, ledger_error="away", pending=99
    )
    refused = after(9, lambda m: m.pushes["creation"].refused("not_permitted", "why"))
    yield snapshot(
        refused, label_sets=[totals(UNKNOWN_LABELS, interruptions=9)], not_ready_reasons=["a fleet"]
    )
    yield snapshot(after(9, lambda m: m.pushes["creation"].refused("malformed_entry", "why")))
    yield snapshot(ledger=Ledger([history(week=10_000)]))


def test_each_problem_says_what_to_do_and_names_a_section_of_the_runbook() -> None:
    found = [one for state in broken() for one in checks(state) if one.state is ATTENTION]
    sections = set(re.findall(r"(?m)^## (\w+)$", RUNBOOK.read_text()))

    assert len({one.name for one in found}) >= 14
    assert all(one.finding.endswith(".") for one in found)
    assert {one.runbook for one in found if one.advice} <= sections
    assert [one.name for one in found if not one.advice] == ["Service"]


def test_every_slug_has_words() -> None:
    assert [slug for slug in OUTCOMES if slug not in sentences.OUTCOMES] == []
    assert [leaf.reason for leaf in leaves() if leaf.reason not in sentences.REFUSALS] == []
    assert [slug for slug in FAILURES if slug not in sentences.LISTING_FAILURES] == []


def test_several_reasons_of_failed_listings_have_their_numbers() -> None:
    text = sentences.listing_failures({"deadline": 2, "forbidden": 1, "store": 0})

    assert text == (
        "3 listings failed since the start: it took too long (2), "
        "the permission compute.instances.list is missing (1)."
    )


def test_a_slug_without_words_is_readable() -> None:
    assert sentences.refusals({"too_many_fields": 2}) == "2 too many fields"
