"""Whether answers, log lines and numbers are as the contract says."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from unicodedata import category

from app.metrics import OUTCOMES
from tests.fuzz.caller import Answer
from tests.fuzz.cases import Case
from tests.fuzz.draft import MARKER
from tests.fuzz.hostile import LIMIT, UNFIT
from tests.fuzz.report import RECORDED, Report
from tests.support.exporter import OWN
from tests.support.program import Samples

REFUSALS: Final = frozenset(
    {
        (400, "malformed_envelope"),
        (401, "not_authenticated"),
        (403, "wrong_subscription"),
        (422, "malformed_entry"),
    }
)
"""Statuses and reasons with which a mutant may be refused."""

_ATTRIBUTION: Final = frozenset(
    ("instance", "project", "kubernetes_cluster", "cluster_location", "node_pool", "zone", "machine_type")
)
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "counted": _ATTRIBUTION,
    "tracked": _ATTRIBUTION,
    "ignored": frozenset({"reason"}),
}
_PROBLEM: Final = frozenset({"title", "status", "detail", "reason"})


def unlike_the_contract(pushed: Case, answer: Answer, document: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer."""
    judge = _outcome_faults if answer.status == 200 else _problem_faults
    told = f"{answer.status} {answer.body[:300]!r}"
    return next((f"{fault}: {told}" for fault, is_so in judge(pushed, answer, document) if is_so), None)


def _outcome_faults(pushed: Case, answer: Answer, document: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    outcome = document.get("outcome")
    yield "taken without a good token", pushed.authorization is not None
    yield "no outcome", answer.content_type != "application/json" or outcome not in OUTCOMES
    yield "not what becomes of it", outcome not in pushed.outcomes
    yield "names what cannot be shown", outcome in RECORDED and any(map(_is_unfit, document.values()))
    yield "other fields", document.keys() != {"outcome"} | _FIELDS.get(str(outcome), frozenset())


def _is_unfit(name: str) -> bool:
    return not 0 < len(name) <= LIMIT or any(category(character) in UNFIT for character in name)


def _problem_faults(pushed: Case, answer: Answer, document: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    yield "not in the contract", (answer.status, document.get("reason")) not in REFUSALS
    yield "of another content type", answer.content_type != "application/problem+json"
    yield "no problem document", document.keys() != _PROBLEM or document["status"] != answer.status
    yield "the token is not what is wrong", (answer.status == 401) != (pushed.authorization is not None)
    yield "a sound message was refused", not pushed.damage
    yield "echoes what was sent", MARKER.encode() in answer.head + answer.body


def may_follow(first: tuple[int, str], again: tuple[int, str] | None) -> bool:
    """Whether a message may be answered so when it is delivered once more; each is a status and a word."""
    if first == (200, "not_a_node"):
        # Not recorded: another mutant may have made a node of the same instance in between.
        return again is not None and again[0] == 200
    return again == ((200, "duplicate") if first[1] in RECORDED else first)


def wrong_lines(lines: Sequence[str], secret: str, report: Report) -> Iterator[str]:
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            yield f"a log line is no JSON: {line[:300]}"
            continue
        report.log[f"{told['severity']} {told['message']}"] += 1
        if told["severity"] in {"ERROR", "CRITICAL"} or "exception" in told or "Traceback" in line:
            yield f"the log: {line[:2000]}"
        if secret in line or (told["severity"] != "INFO" and MARKER in line):
            yield f"the log has what was sent: {line[:300]}"


def wrong_numbers(samples: Samples, lines: Sequence[str], report: Report) -> Iterator[str]:
    """Compare the counters with the answers; what a creation has released, no answer tells but the log."""
    told = [json.loads(line) for line in lines if '"interruption counted"' in line]
    at_once = Counter(line["kubernetes_cluster"] for line in told if line["released_by"] is None)
    yield from _differences("interruptions at once in the log", at_once, report.counted)
    events = _by(samples, "interruption_events_total", "kubernetes_cluster")
    yield from _differences("interruption_events_total", events, Counter(line["counted_as"] for line in told))
    by_label_set = _by(samples, "spot_interruptions_total", "kubernetes_cluster")
    yield from _differences("spot_interruptions_total", by_label_set, events)
    released = samples[f"{OWN}_pending_released_total", frozenset({("by", "creation")})]
    # Those of an instance that turned out to be no node are released, and not counted.
    if released < len(told) - at_once.total():
        yield f"{released:g} were released, the log tells of {len(told) - at_once.total()}"
    created = _by(samples, "spot_instances_created_total", "kubernetes_cluster")
    for cluster, number in created.items():
        tracked = report.tracked[cluster]
        if number > tracked and cluster != "other":
            yield f"spot_instances_created_total of {cluster!r}: {number}, of {tracked} tracked"
    for cluster, number in report.good_created.items():
        if (created[cluster], events[cluster]) != (number, report.good_counted[cluster]):
            yield f"{cluster} is not exact: {created[cluster]} created, {events[cluster]} interrupted"
    shown = _by(samples, f"{OWN}_push_messages_total", "endpoint", "outcome")
    shown += _by(samples, f"{OWN}_push_errors_total", "endpoint", "reason")
    yield from _differences("answers", shown, report.answered)
    report.commits = samples[f"{OWN}_store_commit_seconds_count", frozenset()]


def _by(samples: Samples, name: str, *labels: str) -> Counter[Any]:
    """The sums of a series by labels: by the value of one, by the tuple of several."""
    sums: Counter[Any] = Counter()
    for (sample, pairs), value in samples.items():
        if sample == name:
            values = dict(pairs)
            sums[values[labels[0]] if len(labels) == 1 else tuple(values[label] for label in labels)] += int(
                value
            )
    return sums


def _differences(what: str, shown: Counter[Any], expected: Counter[Any]) -> Iterator[str]:
    for key in shown.keys() | expected.keys():
        if shown[key] != expected[key]:
            yield f"{what} of {key!r}: {shown[key]}, not {expected[key]}"
