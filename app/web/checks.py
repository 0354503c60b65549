"""How the pipeline is: each thing that can be wrong, what is known of it, and whether someone should look.

Thresholds are for a page that is looked at; the alerting rules are Prometheus' own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final

from app.domain.events import UNKNOWN
from app.domain.history import PERIOD_SECONDS, PERIODS
from app.metrics import ENDPOINTS, Endpoint
from app.web.facts import Facts
from app.web.problems import leaves, status_of
from app.web.words import ago, count, duration, percent, precisely, several

_WEEK: Final = PERIODS * PERIOD_SECONDS
_SILENT_SECONDS: Final = 1800.0
_MISSED: Final = 5.0
"""Where so many interruptions were usual, none comes by chance once in 150 times."""
_LATE_SECONDS: Final = 60.0
_SLOW_SECONDS: Final = 1.0
_OLD_LISTINGS: Final = 3.0
"""A fleet is known too badly when so many listings in a row are missing."""
_FEW: Final = 5
"""Fewer tell nothing."""
_REFUSED, _UNATTRIBUTED, _WAITING = 0.05, 0.05, 0.1
"""Larger shares are more than a stranger at the door, or an instance that was never told of."""
_UNAUTHENTICATED: Final = frozenset(
    leaf.reason for leaf in leaves() if status_of(leaf) in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
)


class State(Enum):
    """The word that stands beside a check."""

    OK = "OK"
    ATTENTION = "Attention"
    NONE = "Nothing yet"
    OFF = "Off"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing, as a sentence."""

    name: str
    finding: str
    state: State = State.OK
    advice: str = ""
    """What to do where someone should look."""


def checks(facts: Facts) -> Sequence[Check]:
    """All checks, in the order in which an event meets them."""
    return [
        _service(facts),
        *(_pushes(facts, endpoint) for endpoint in ENDPOINTS),
        _refused(
            facts,
            "Refused for authentication",
            authentication=True,
            advice="compare the subscriptions' push account and audience with the configuration",
        ),
        _refused(
            facts,
            "Refused for other reasons",
            authentication=False,
            advice="Pub/Sub delivers them again; the log has more",
        ),
        _delay(facts),
        _waiting(facts),
        _unknown(facts),
        *_fleets(facts),
        _commits(facts),
        *_accidents(facts),
    ]


def _service(facts: Facts) -> Check:
    if facts.ailing:
        return Check("Service", facts.ailing, State.ATTENTION, "only a restart helps")
    up = f"up for {duration(max(facts.now - facts.started_at, 0.0))}"
    if facts.missing:
        return Check("Service", f"{up}, not ready: {'; '.join(facts.missing)}", State.ATTENTION)
    return Check("Service", f"{up}, ready")


def _pushes(facts: Facts, endpoint: Endpoint) -> Check:
    name = f"Pushes of {endpoint}s"
    last = facts.seen.value("last_push_timestamp_seconds", endpoint=endpoint)
    silence = max(facts.now - (facts.started_at if last is None else last), 0.0)
    finding = "none since the start" if last is None else f"the last one {ago(silence)}"
    outcomes = facts.seen.by("outcome", "push_messages_total", endpoint=endpoint)
    if told := _listing(outcomes):
        finding += f"; {told} since the start"
    # What is interrupted is created anew, as a rule: one count tells what is usual at both endpoints.
    week = sum(pool.last_week for pool in facts.ledger.pools) if facts.ledger else 0
    missed = week * silence / _WEEK
    if silence >= _SILENT_SECONDS and missed >= _MISSED:
        finding += f"; about {several(missed, 'interruption')} would be usual in that time"
        advice = "look at the log sink, and at the subscription's oldest unacknowledged message"
        return Check(name, finding, State.ATTENTION, advice)
    return Check(name, finding, State.NONE if last is None else State.OK)


def _refused(facts: Facts, name: str, *, authentication: bool, advice: str) -> Check:
    reasons: dict[str, float] = {}
    everything = accepted = 0.0
    for endpoint in ENDPOINTS:
        answered = sum(facts.seen.by("outcome", "push_messages_total", endpoint=endpoint).values())
        refused = facts.seen.by("reason", "push_errors_total", endpoint=endpoint)
        everything += answered + sum(refused.values())
        accepted += answered
        for reason, number in refused.items():
            if (reason in _UNAUTHENTICATED) is authentication:
                reasons[reason] = reasons.get(reason, 0.0) + number
    number = sum(reasons.values())
    if not number:
        return Check(name, "none since the start")
    finding = (
        f"{count(number)} of {several(everything, 'push', 'pushes')} since the start: {_listing(reasons)}"
    )
    many = number >= _FEW and number > _REFUSED * everything
    if many or not accepted or reasons.get("internal"):
        return Check(name, finding, State.ATTENTION, advice)
    return Check(name, finding)


def _delay(facts: Facts) -> Check:
    name, histogram = "Delay of events", "event_delay_seconds"
    parts, late = [], False
    for endpoint in ENDPOINTS:
        if number := facts.seen.observed(histogram, endpoint=endpoint):
            half = facts.seen.within(0.5, histogram, endpoint=endpoint)
            most = facts.seen.within(0.99, histogram, endpoint=endpoint)
            late |= number >= _FEW and (half is None or half > _LATE_SECONDS)
            parts.append(f"{endpoint}s: half {_bound(half)}, 99 % {_bound(most)}")
    if not parts:
        return Check(name, "no event yet", State.NONE)
    finding = f"{'; '.join(parts)} of their log time"
    advice = "a backlog, or a subscription that backs off: look at what is refused"
    return Check(name, finding, State.ATTENTION, advice) if late else Check(name, finding)


def _waiting(facts: Facts) -> Check:
    name = "Waiting interruptions"
    if not facts.waiting:
        return Check(name, "none")
    finding = f"{count(facts.waiting)} for something that explains their instance"
    week = sum(pool.last_week for pool in facts.ledger.pools) if facts.ledger else 0
    if facts.waiting >= _FEW and facts.waiting > _WAITING * week:
        advice = "creations do not arrive, or the fleet is not listed"
        return Check(name, finding, State.ATTENTION, advice)
    return Check(name, finding)


def _unknown(facts: Facts) -> Check:
    name = "Counted as unknown"
    unknown = sum(row.interruptions for row in facts.label_sets if row.labels.cluster == UNKNOWN)
    everything = sum(row.interruptions for row in facts.label_sets)
    if not everything:
        return Check(name, "no interruption yet", State.NONE)
    finding = f"{count(unknown)} of {several(everything, 'interruption')} since counting began"
    if unknown >= _FEW and unknown > _UNATTRIBUTED * everything:
        advice = "creations do not arrive, the fleet is not listed, or the VMs are of other projects"
        return Check(name, f"{finding}, {percent(unknown / everything)}", State.ATTENTION, advice)
    return Check(name, finding)


def _fleets(facts: Facts) -> Iterator[Check]:
    failures = facts.seen.by_two("project", "reason", "inventory_failures_total")
    if not failures:
        yield Check("Fleet", "not listed: no project is configured, or inventory.enabled is false", State.OFF)
    for project, reasons in failures.items():
        yield _fleet(facts, project, reasons)


def _fleet(facts: Facts, project: str, reasons: Mapping[str, float]) -> Check:
    name = f"Fleet of {project}"
    seen = facts.seen
    at = seen.value("inventory_last_success_timestamp_seconds", project=project)
    failed = f"; failed since the start: {told}" if (told := _listing(reasons)) else ""
    advice = "the exporter needs compute.instances.list in the project; the log says why it failed"
    if at is None:
        state = State.ATTENTION if failed else State.NONE
        return Check(name, f"not listed since the start{failed}", state, advice if failed else "")
    age = max(facts.now - at, 0.0)
    instances = several(seen.value("inventory_instances", project=project) or 0.0, "GKE instance")
    took = precisely(seen.value("inventory_duration_seconds", project=project) or 0.0)
    finding = f"{instances} listed {ago(age)}, in {took}{failed}"
    if age > _OLD_LISTINGS * facts.listing_interval_seconds:
        return Check(name, finding, State.ATTENTION, advice)
    return Check(name, finding)


def _commits(facts: Facts) -> Check:
    name, histogram = "Store commits", "store_commit_seconds"
    number = facts.seen.observed(histogram)
    if not number:
        return Check(name, "none yet", State.NONE)
    half, most = (facts.seen.within(share, histogram) for share in (0.5, 0.99))
    finding = f"half {_bound(half)}, 99 % {_bound(most)}, of {several(number, 'commit')}"
    if number >= _FEW and (half is None or half > _SLOW_SECONDS):
        return Check(name, finding, State.ATTENTION, "every push waits for the disk")
    return Check(name, finding)


def _accidents(facts: Facts) -> Iterator[Check]:
    """What is told of only when it has happened."""
    if facts.ledger is None:
        yield Check("Ledger", facts.ledger_trouble, State.ATTENTION, "counting goes on; the log may say more")
    if number := facts.seen.value("store_resets_total"):
        yield Check(
            "Store",
            f"found damaged and moved aside {several(number, 'time')}",
            State.ATTENTION,
            "see the log",
        )
    if number := facts.seen.value("label_overflow_total"):
        finding = f"{several(number, 'event')} counted under other"
        yield Check("Label sets", finding, State.ATTENTION, "raise prometheus.max_label_sets")


def _listing(numbers: Mapping[str, float]) -> str:
    """The numbers above 0, most first."""
    most_first = sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count(number)} {name}" for name, number in most_first if number)


def _bound(seconds: float | None) -> str:
    if seconds is None or seconds == float("inf"):
        return "later than can be told"
    return f"within {precisely(seconds)}"
