"""The checks of the pipeline: a sentence about the state of each part, and if someone should look at it.

Thresholds are for people who look at the page. The alerting rules have their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final

from app.domain.ledger import PERIOD_SECONDS, PERIODS
from app.metrics import ENDPOINTS, OTHER_ENDPOINT, Endpoint
from app.web.problems import leaves, status_of
from app.web.status.formats import ago, count, count_noun, duration, percent, short_duration
from app.web.status.sentences import listing_advice, listing_failures, outcomes, refusals
from app.web.status.snapshot import Snapshot

_WEEK: Final = PERIODS * PERIOD_SECONDS
_SILENT_SECONDS: Final = 1800.0
_MISSED: Final = 5.0
"""If this many interruptions are usual in some time, none at all happens by chance once in 150 times."""
_LATE_SECONDS: Final = 60.0
_SLOW_SECONDS: Final = 1.0
_OLD_LISTINGS: Final = 3.0
"""A fleet is not known well enough if this many listings in a row are missing."""
_FEW: Final = 5
"""Fewer events are not enough to judge by."""
_REFUSED, _UNATTRIBUTED, _PENDING = 0.05, 0.05, 0.1
"""Larger shares are more than a stranger's pushes, or one instance that was never announced."""
_STATUSES: Final = {leaf.reason: status_of(leaf) for leaf in leaves()}
_UNAUTHENTICATED: Final = frozenset(
    reason
    for reason, status in _STATUSES.items()
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
)
_FAILING: Final = frozenset(
    reason for reason, status in _STATUSES.items() if status >= HTTPStatus.INTERNAL_SERVER_ERROR
)


class State(Enum):
    """The word that stands beside a check."""

    OK = "OK"
    ATTENTION = "Attention"
    NONE = "Nothing yet"
    OFF = "Off"


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the pipeline."""

    name: str
    finding: str
    """One or more sentences."""
    state: State = State.OK
    advice: str = ""
    """A sentence that says what to do, if someone should look."""
    runbook: str = ""
    """The alert whose section in the runbook is about this problem."""


def checks(snapshot: Snapshot) -> Sequence[Check]:
    """Return all checks, in the order of an event's path. Each problem is in one check only."""
    fleets = list(_fleets(snapshot))
    unauthenticated = _unauthenticated(snapshot)
    return [
        _service(snapshot, fleet_is_reported=_need_attention(fleets)),
        *(
            _pushes(snapshot, endpoint, refusals_are_reported=_need_attention([unauthenticated]))
            for endpoint in ENDPOINTS
        ),
        unauthenticated,
        _refused(snapshot),
        _elsewhere(snapshot),
        _delay(snapshot),
        _pending(snapshot),
        _unknown(snapshot),
        *fleets,
        _commits(snapshot),
        *_incidents(snapshot),
    ]


def _need_attention(found: Sequence[Check]) -> bool:
    return any(check.state is State.ATTENTION for check in found)


def _service(snapshot: Snapshot, *, fleet_is_reported: bool) -> Check:
    name = "Service"
    if snapshot.unhealthy_reason:
        return Check(
            name,
            f"{_capital(snapshot.unhealthy_reason)}.",
            State.ATTENTION,
            "Restart the exporter.",
            "SpotInterruptionExporterDown",
        )
    up = f"Up for {duration(max(snapshot.now - snapshot.started_at, 0.0))}."
    if not snapshot.not_ready_reasons:
        return Check(name, f"{up} Ready.")
    state = State.NONE if fleet_is_reported else State.ATTENTION
    return Check(name, f"{up} Not ready: {'; '.join(snapshot.not_ready_reasons)}.", state)


def _pushes(snapshot: Snapshot, endpoint: Endpoint, *, refusals_are_reported: bool) -> Check:
    name = f"Pushes of {endpoint}s"
    last = snapshot.self_metrics.value("last_push_timestamp_seconds", endpoint=endpoint)
    silence = max(snapshot.now - (snapshot.started_at if last is None else last), 0.0)
    finding = "No push since the start." if last is None else f"The last push came {ago(silence)}."
    if listed := outcomes(snapshot.self_metrics.by("outcome", "push_messages_total", endpoint=endpoint)):
        finding += f" Since the start: {listed}."
    # GKE replaces an interrupted node, so the interruptions show what is usual at both endpoints.
    missed = (snapshot.ledger.last_week if snapshot.ledger else 0) * silence / _WEEK
    if silence >= _SILENT_SECONDS and missed >= _MISSED and not refusals_are_reported:
        return Check(
            name,
            f"{finding} About {count_noun(missed, 'interruption')} would be usual in that time.",
            State.ATTENTION,
            "Look at the log sink, and at the oldest unacknowledged message of the subscription.",
            "SpotInterruptionExporterSilent",
        )
    return Check(name, finding, State.NONE if last is None else State.OK)


def _unauthenticated(snapshot: Snapshot) -> Check:
    name = "Refused for authentication"
    reasons, everything, accepted = _refusals(snapshot, authentication=True)
    if not reasons:
        return Check(name, "No push was refused for authentication since the start.")
    finding = _were_refused(reasons, everything, snapshot.refusals)
    if _many(reasons, everything) or not accepted:
        return Check(
            name,
            finding,
            State.ATTENTION,
            "Compare the name, the push account and the audience of each subscription with the configuration,"
            " and check the clock of the exporter's machine.",
            "SpotInterruptionExporterPushesUnauthenticated",
        )
    return Check(name, finding)


def _refused(snapshot: Snapshot) -> Check:
    name = "Refused for other reasons"
    reasons, everything, accepted = _refusals(snapshot, authentication=False)
    if not reasons:
        return Check(name, "No push was refused for another reason since the start.")
    finding = _were_refused(reasons, everything, snapshot.refusals)
    if _many(reasons, everything) or not accepted or "internal" in reasons:
        failing = not _FAILING.isdisjoint(reasons)
        return Check(
            name,
            finding,
            State.ATTENTION,
            "Pub/Sub delivers these messages again. The log has the details.",
            "SpotInterruptionExporterPushesFailing" if failing else "SpotInterruptionExporterPushesRefused",
        )
    return Check(name, finding)


def _refusals(snapshot: Snapshot, *, authentication: bool) -> tuple[Mapping[str, float], float, float]:
    """Return the refused pushes by reason, all pushes, and the accepted ones."""
    reasons: dict[str, float] = {}
    everything = accepted = 0.0
    for endpoint in ENDPOINTS:
        answered = sum(snapshot.self_metrics.by("outcome", "push_messages_total", endpoint=endpoint).values())
        refused = snapshot.self_metrics.by("reason", "push_errors_total", endpoint=endpoint)
        everything += answered + sum(refused.values())
        accepted += answered
        for reason, number in refused.items():
            if number and (reason in _UNAUTHENTICATED) is authentication:
                reasons[reason] = reasons.get(reason, 0.0) + number
    return reasons, everything, accepted


def _were_refused(reasons: Mapping[str, float], everything: float, details: Mapping[str, str]) -> str:
    refused = f"{count(sum(reasons.values()))} of {count_noun(everything, 'push', 'pushes')}"
    newest = "".join(
        f" The newest of {reason}: {details[reason]}." for reason in reasons if reason in details
    )
    return f"{refused} since the start: {refusals(reasons)}.{newest}"


def _elsewhere(snapshot: Snapshot) -> Check:
    name = "Requests to other paths"
    reasons = snapshot.self_metrics.by("reason", "push_errors_total", endpoint=OTHER_ENDPOINT)
    number = sum(reasons.values())
    if not number:
        return Check(name, "Every push had the path of an endpoint since the start.")
    newest = next((snapshot.refusals[reason] for reason in reasons if reason in snapshot.refusals), "")
    return Check(
        name,
        f"{count_noun(number, 'request')} since the start had a path or a method that no endpoint"
        f" takes. The newest: {newest}.",
        advice="If a subscription sends them, correct its push endpoint; its path is /events/creation or"
        " /events/interruption.",
    )


def _many(reasons: Mapping[str, float], everything: float) -> bool:
    number = sum(reasons.values())
    return number >= _FEW and number > _REFUSED * everything


def _delay(snapshot: Snapshot) -> Check:
    name, histogram = "Delay of events", "event_delay_seconds"
    parts, late = [], False
    for endpoint in ENDPOINTS:
        if number := snapshot.self_metrics.observed(histogram, endpoint=endpoint):
            half = snapshot.self_metrics.quantile_bound(0.5, histogram, endpoint=endpoint)
            late |= number >= _FEW and (half is None or half > _LATE_SECONDS)
            parts.append(f"{_capital(endpoint)}s: {_halves(snapshot, histogram, endpoint=endpoint)}.")
    if not parts:
        return Check(name, "No event yet.", State.NONE)
    finding = " ".join(parts)
    if late:
        return Check(
            name,
            finding,
            State.ATTENTION,
            "Look for a backlog in Pub/Sub, and at the refused pushes: refusals slow a subscription down.",
            "SpotInterruptionExporterEventsDelayed",
        )
    return Check(name, finding)


def _pending(snapshot: Snapshot) -> Check:
    name = "Pending interruptions"
    if not snapshot.pending:
        return Check(name, "No interruption is pending.")
    are = "interruption is" if snapshot.pending == 1 else "interruptions are"
    finding = f"{count(snapshot.pending)} {are} pending, because the instance is not known yet."
    week = snapshot.ledger.last_week if snapshot.ledger else 0
    if snapshot.pending >= _FEW and snapshot.pending > _PENDING * week:
        return Check(
            name,
            finding,
            State.ATTENTION,
            "Check that creations arrive, and that the fleet is listed.",
            "SpotInterruptionExporterPendingHigh",
        )
    return Check(name, finding)


def _unknown(snapshot: Snapshot) -> Check:
    name, window = "Counted as unknown", snapshot.window.value
    counted = snapshot.counted
    unknown = sum(row.counted_as_unknown for row in counted)
    everything = sum(row.interruptions for row in counted)
    if not everything:
        return Check(name, f"No interruption {window}.", State.NONE)
    finding = f"{count(unknown)} of {count_noun(everything, 'interruption')} {window}"
    if unknown >= _FEW and unknown > _UNATTRIBUTED * everything:
        return Check(
            name,
            f"{finding}, {percent(unknown / everything)}.",
            State.ATTENTION,
            "Check that creations arrive, that the fleet is listed, and that all projects are configured.",
            "SpotInterruptionsUnattributed",
        )
    return Check(name, f"{finding}.")


def _fleets(snapshot: Snapshot) -> Iterator[Check]:
    failures = snapshot.self_metrics.by_labels("project", "reason", "inventory_failures_total")
    if not failures:
        finding = "The fleet is not listed: no project is configured, or inventory.enabled is false."
        yield Check("Fleet", finding, State.OFF)
    for project, reasons in failures.items():
        yield _fleet(snapshot, project, reasons)


def _fleet(snapshot: Snapshot, project: str, reasons: Mapping[str, float]) -> Check:
    name, metrics = f"Fleet of {project}", snapshot.self_metrics
    failed = listing_failures(reasons)
    at = metrics.value("inventory_last_success_timestamp_seconds", project=project)
    advice = f"{listing_advice(reasons)} The log has the error.".lstrip()
    if at is None:
        finding = "Not listed since the start."
        if not failed:
            return Check(name, finding, State.NONE)
        runbook = "SpotInterruptionExporterInventoryFailing"
        return Check(name, f"{finding} {failed}", State.ATTENTION, advice, runbook)
    age = max(snapshot.now - at, 0.0)
    number = metrics.value("inventory_instances", project=project)
    seconds = metrics.value("inventory_duration_seconds", project=project)
    if number is None or seconds is None:  # the replicas share only the time
        finding = f"Listed {ago(age)} by another process."
    else:
        finding = f"{count_noun(number, 'instance')} listed {ago(age)}, in {short_duration(seconds)}."
    finding = f"{finding} {failed}".rstrip()
    if age > _OLD_LISTINGS * snapshot.listing_interval_seconds:
        return Check(name, finding, State.ATTENTION, advice, "SpotInterruptionExporterInventoryStale")
    return Check(name, finding)


def _commits(snapshot: Snapshot) -> Check:
    name, histogram = "Store commits", "store_commit_seconds"
    number = snapshot.self_metrics.observed(histogram)
    if not number:
        return Check(name, "No commit yet.", State.NONE)
    half = snapshot.self_metrics.quantile_bound(0.5, histogram)
    finding = f"{count_noun(number, 'commit')} since the start: {_halves(snapshot, histogram)}."
    if number >= _FEW and (half is None or half > _SLOW_SECONDS):
        advice = "Every push waits for the store. Look at its disk or its server."
        return Check(name, finding, State.ATTENTION, advice, "SpotInterruptionExporterEventsDelayed")
    return Check(name, finding)


def _incidents(snapshot: Snapshot) -> Iterator[Check]:
    """Yield the checks that are shown only after something has happened."""
    if snapshot.ledger is None:
        yield Check(
            "Ledger",
            f"{_capital(snapshot.ledger_error)}.",
            State.ATTENTION,
            "The page cannot show the last 7 days. The log may say more.",
            "SpotInterruptionExporterPushesFailing",
        )
    if number := snapshot.self_metrics.value("store_resets_total"):
        yield Check(
            "Store",
            f"Found damaged, or with older data than before, {count_noun(number, 'time')} since the start.",
            State.ATTENTION,
            "The log says what was kept and what was lost.",
            "SpotInterruptionExporterStoreReset",
        )
    if number := snapshot.self_metrics.value("label_overflow_total"):
        yield Check(
            "Label sets",
            f"{count_noun(number, 'event')} counted under other, because there are too many label sets.",
            State.ATTENTION,
            "Raise prometheus.max_label_sets.",
            "SpotInterruptionExporterLabelOverflow",
        )


def _halves(snapshot: Snapshot, histogram: str, **labels: str) -> str:
    """Return the bounds of half and of nearly all observations: `half within 1 s, 99 % within 5 s`."""
    return ", ".join(
        f"{words} {_bound(snapshot, share, histogram, **labels)}"
        for words, share in (("half", 0.5), ("99 %", 0.99))
    )


def _bound(snapshot: Snapshot, share: float, histogram: str, **labels: str) -> str:
    bound = snapshot.self_metrics.quantile_bound(share, histogram, **labels)
    if bound is None or bound == float("inf"):
        largest = snapshot.self_metrics.largest_bound(histogram, **labels)
        return f"within more than {short_duration(largest)}"
    return f"within {short_duration(bound)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
