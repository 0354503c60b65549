"""The comparison of answers, log lines and counters with the contract."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from unicodedata import category

from app.documents import OUTCOMES
from tests.fuzz.case_builder import MARKER
from tests.fuzz.cases import Case
from tests.fuzz.hostile_values import FORBIDDEN_CATEGORIES, LIMIT
from tests.fuzz.report import RECORDED, Report
from tests.support.exporter import OWN
from tests.support.raw_http import Answer
from tests.support.samples import Samples

REFUSALS: Final = frozenset(
    {
        (400, "malformed_envelope"),
        (401, "not_authenticated"),
        (403, "wrong_subscription"),
        (422, "malformed_entry"),
    }
)
"""The statuses and reasons of allowed refusals."""

_ATTRIBUTION: Final = frozenset(
    ("instance", "project", "kubernetes_cluster", "cluster_location", "node_pool", "zone", "machine_type")
)
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "counted": _ATTRIBUTION,
    "tracked": _ATTRIBUTION,
    "ignored": frozenset({"reason"}),
}
_PROBLEM: Final = frozenset({"title", "status", "detail", "reason"})


def contract_violation(pushed: Case, answer: Answer, document: Mapping[str, Any]) -> str | None:
    """Return the first violation of the contract by an answer, None if there is none."""
    violations = _outcome_violations if answer.status == 200 else _problem_violations
    text = f"{answer.status} {answer.body[:300]!r}"
    return next(
        (f"{name}: {text}" for name, is_violated in violations(pushed, answer, document) if is_violated), None
    )


def _outcome_violations(
    pushed: Case, answer: Answer, document: Mapping[str, Any]
) -> Iterator[tuple[str, bool]]:
    outcome = document.get("outcome")
    yield "accepted without a valid token", pushed.authorization is not None
    yield "outcome missing", answer.content_type != "application/json" or outcome not in OUTCOMES
    yield "unexpected outcome", outcome not in pushed.outcomes
    yield "contains a forbidden name", outcome in RECORDED and any(map(_is_forbidden, document.values()))
    yield "unexpected fields", document.keys() != {"outcome"} | _FIELDS.get(str(outcome), frozenset())


def _is_forbidden(name: str) -> bool:
    return not 0 < len(name) <= LIMIT or any(
        category(character) in FORBIDDEN_CATEGORIES for character in name
    )


def _problem_violations(
    pushed: Case, answer: Answer, document: Mapping[str, Any]
) -> Iterator[tuple[str, bool]]:
    yield "status and reason are not in the contract", (answer.status, document.get("reason")) not in REFUSALS
    yield "wrong content type", answer.content_type != "application/problem+json"
    yield "not a problem document", document.keys() != _PROBLEM or document["status"] != answer.status
    yield (
        "401 with a valid token, or another status with an invalid one",
        (answer.status == 401) != (pushed.authorization is not None),
    )
    yield "a valid message was refused", not pushed.damage
    yield "repeats the request", MARKER.encode() in answer.head + answer.body


def is_valid_repetition(first: tuple[int, str], second: tuple[int, str] | None) -> bool:
    """Return whether the second answer to a message, with status and outcome or reason, is allowed."""
    if first in {(200, "not_a_node"), (200, "unknown_instance")}:
        # Not recorded: another mutant may have created the instance in between.
        return second is not None and second[0] == 200
    return second == ((200, "duplicate") if first[1] in RECORDED else first)


def log_errors(lines: Sequence[str], secret: str, report: Report) -> Iterator[str]:
    """Yield an error for each line that is not JSON, reports a bug, or repeats a request or a token."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            yield f"a log line is not JSON: {line[:300]}"
            continue
        report.log[f"{record['severity']} {record['message']}"] += 1
        if record["severity"] in {"ERROR", "CRITICAL"} or "exception" in record or "Traceback" in line:
            yield f"the log reports an error: {line[:2000]}"
        if secret in line or (record["severity"] != "INFO" and MARKER in line):
            yield f"the log repeats a request or a token: {line[:300]}"


def counter_errors(samples: Samples, lines: Sequence[str], report: Report) -> Iterator[str]:
    """Compare the counters with the answers, and with the log for interruptions released by a creation."""
    logged = [json.loads(line) for line in lines if '"interruption counted"' in line]
    counted_at_once = Counter(line["kubernetes_cluster"] for line in logged if line["released_by"] is None)
    yield from _differences("interruptions in the log that were not pending", counted_at_once, report.counted)
    events = _by(samples, "interruption_events_total", "kubernetes_cluster")
    yield from _differences(
        "interruption_events_total", events, Counter(line["counted_as"] for line in logged)
    )
    by_label_set = _by(samples, "spot_interruptions_total", "kubernetes_cluster")
    yield from _differences("spot_interruptions_total", by_label_set, events)
    released = samples[f"{OWN}_pending_released_total", frozenset({("by", "creation")})]
    # Interruptions of an instance that is not a node are released too, but not counted.
    if released < len(logged) - counted_at_once.total():
        yield f"{released:g} were released, {len(logged) - counted_at_once.total()} in the log"
    created = _by(samples, "spot_instances_created_total", "kubernetes_cluster")
    for cluster, number in created.items():
        tracked = report.tracked[cluster]
        if number > tracked and cluster != "other":
            yield f"spot_instances_created_total of {cluster!r}: {number}, of {tracked} tracked"
    for cluster, number in report.valid_created.items():
        if (created[cluster], events[cluster]) != (number, report.valid_counted[cluster]):
            yield f"{cluster} is not exact: {created[cluster]} created, {events[cluster]} interrupted"
    shown = _by(samples, f"{OWN}_push_messages_total", "endpoint", "outcome")
    shown += _by(samples, f"{OWN}_push_errors_total", "endpoint", "reason")
    yield from _differences("answers", shown, report.answered)
    report.commits = samples[f"{OWN}_store_commit_seconds_count", frozenset()]


def _by(samples: Samples, name: str, *labels: str) -> Counter[Any]:
    """Sum a metric by labels. The keys are values of the label, or tuples of values of several labels."""
    sums: Counter[Any] = Counter()
    for (sample, pairs), value in samples.items():
        if sample == name:
            values = dict(pairs)
            sums[values[labels[0]] if len(labels) == 1 else tuple(values[label] for label in labels)] += int(
                value
            )
    return sums


def _differences(name: str, shown: Counter[Any], expected: Counter[Any]) -> Iterator[str]:
    for key in shown.keys() | expected.keys():
        if shown[key] != expected[key]:
            yield f"{name} of {key!r}: {shown[key]}, not {expected[key]}"
