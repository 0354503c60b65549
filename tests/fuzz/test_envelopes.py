import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fuzz.case_builder import MARKER
from tests.fuzz.cases import Case, case
from tests.fuzz.contract_check import contract_violation, is_valid_repetition, log_errors
from tests.fuzz.envelopes import Backend, run
from tests.fuzz.failed_cases import read_failed, write_failed
from tests.fuzz.hostile_values import VALUES
from tests.fuzz.report import Report
from tests.support.entries import encoded
from tests.support.raw_http import Answer

pytestmark = pytest.mark.usefixtures("quick_programs")

_SEED: Final = 1


@pytest.mark.parametrize(
    ("store", "cases"), [pytest.param("sqlite", 2_000, id="sqlite"), pytest.param("redis", 1_500, id="redis")]
)
def test_mutants_are_answered_as_in_the_contract_and_valid_messages_count_exactly(
    tmp_path: Path, store: Backend, cases: int
) -> None:
    report = run(tmp_path, (case(_SEED, number) for number in range(cases)), store=store)

    assert not report.errors, "\n".join(report.errors[:20])
    assert report.cases == cases
    assert {"tracked", "counted", "pending", "duplicate", "ended", "ignored"} == report.outcomes.keys()
    assert report.reasons.keys() == {
        "malformed_envelope",
        "malformed_entry",
        "not_authenticated",
        "wrong_subscription",
    }
    assert report.valid_counted.total() > cases / 50


def test_seed_and_number_determine_a_case() -> None:
    assert [case(_SEED, number) for number in range(50)] == [case(_SEED, number) for number in range(50)]
    assert case(_SEED, 7) != case(_SEED + 1, 7)


def test_a_case_does_not_depend_on_those_before_it() -> None:
    # The mutations of a case would change the values of the next, and put a value into itself.
    before = json.dumps(VALUES)

    for number in range(3000):
        case(7, number)

    assert json.dumps(VALUES) == before


def test_failed_cases_are_read_as_they_were_written(tmp_path: Path) -> None:
    cases = [case(_SEED, number) for number in range(200)]
    write_failed(tmp_path / "failed", ((failed, "for a reason") for failed in cases))

    assert list(read_failed(tmp_path / "failed")) == cases


def answer(
    status: int, document: Mapping[str, Any], content_type: str = "application/problem+json"
) -> Answer:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\n\r\n".encode()
    return Answer(status, head, encoded(dict(document)), 0.001)


def problem(status: int, reason: str, **fields: object) -> Answer:
    return answer(status, {"title": "t", "status": status, "detail": "d", "reason": reason, **fields})


def tracked(**fields: str) -> Answer:
    names = (
        "instance",
        "project",
        "kubernetes_cluster",
        "cluster_location",
        "node_pool",
        "zone",
        "machine_type",
    )
    return answer(200, {"outcome": "tracked", **dict.fromkeys(names, "name"), **fields}, "application/json")


DAMAGED: Final = Case(1, "preempted", "interruption", b"", ("cut",), frozenset({"ignored"}))
TRACKED: Final = Case(1, "insert", "creation", b"", (), frozenset({"tracked"}))
VALID: Final = Case(1, "preempted", "interruption", b"", (), frozenset({"counted"}))
FORGED: Final = Case(1, "preempted", "interruption", b"", ("headers",), authorization=b"Bearer x")
JSON: Final = "application/json"


@pytest.mark.parametrize(
    ("pushed", "answer", "violation"),
    [
        pytest.param(DAMAGED, problem(422, "malformed_entry"), None, id="refused"),
        pytest.param(DAMAGED, answer(200, {"outcome": "ignored", "reason": "r"}, JSON), None, id="ignored"),
        pytest.param(FORGED, problem(401, "not_authenticated"), None, id="unauthentic"),
        pytest.param(DAMAGED, problem(500, "internal"), "status and reason", id="bug"),
        pytest.param(DAMAGED, problem(503, "overload"), "status and reason", id="unavailable"),
        pytest.param(DAMAGED, problem(400, "malformed_entry"), "status and reason", id="mixed"),
        pytest.param(
            DAMAGED, problem(422, "malformed_entry", detail=MARKER), "repeats the request", id="echo"
        ),
        pytest.param(
            DAMAGED,
            problem(422, "malformed_entry", trace="t"),
            "not a problem document",
            id="additional-field",
        ),
        pytest.param(
            DAMAGED, answer(422, {"reason": "malformed_entry"}, JSON), "wrong content type", id="json"
        ),
        pytest.param(DAMAGED, problem(401, "not_authenticated"), "401 with", id="valid-token"),
        pytest.param(FORGED, problem(422, "malformed_entry"), "401 with", id="invalid-token"),
        pytest.param(FORGED, answer(200, {"outcome": "ignored"}, JSON), "accepted without", id="forged"),
        pytest.param(VALID, problem(422, "malformed_entry"), "a valid message", id="valid-refused"),
        pytest.param(
            VALID, answer(200, {"outcome": "pending"}, JSON), "unexpected outcome", id="other-outcome"
        ),
        pytest.param(DAMAGED, answer(200, {"outcome": "ignored"}, JSON), "unexpected fields", id="no-reason"),
        pytest.param(DAMAGED, answer(200, {}, JSON), "outcome missing", id="no-outcome"),
        pytest.param(TRACKED, tracked(), None, id="tracked"),
        pytest.param(TRACKED, tracked(zone="z\x00"), "contains a forbidden", id="control-character"),
        pytest.param(TRACKED, tracked(node_pool=""), "contains a forbidden", id="empty"),
    ],
)
def test_an_answer_against_the_contract_is_reported(
    pushed: Case, answer: Answer, violation: str | None
) -> None:
    found = contract_violation(pushed, answer, answer.document())

    assert found is None if violation is None else (found or "").startswith(violation)


@pytest.mark.parametrize(
    ("first", "second", "valid"),
    [
        ((200, "counted"), (200, "duplicate"), True),
        ((200, "counted"), (200, "counted"), False),
        ((200, "tracked"), (422, "malformed_entry"), False),
        ((200, "last_entry"), (200, "last_entry"), True),
        ((200, "last_entry"), (200, "tracked"), False),
        ((200, "not_a_node"), (200, "counted"), True),
        ((200, "unknown_instance"), (200, "ended"), True),
        ((422, "malformed_entry"), (422, "malformed_entry"), True),
        ((422, "malformed_entry"), (200, "tracked"), False),
        ((200, "pending"), None, False),
    ],
)
def test_a_repetition_with_another_answer_is_reported(
    first: tuple[int, str],
    second: tuple[int, str] | None,
    valid: bool,  # noqa: FBT001
) -> None:
    assert is_valid_repetition(first, second) == valid


@pytest.mark.parametrize(
    "line",
    [
        '{"severity": "ERROR", "message": "m"}',
        '{"severity": "INFO", "message": "m", "exception": "e"}',
        f'{{"severity": "WARNING", "message": "{MARKER}"}}',
        '{"severity": "INFO", "message": "s3cret"}',
        "Traceback (most recent call last):",
    ],
)
def test_a_forbidden_log_line_is_reported(line: str) -> None:
    allowed = '{"severity": "INFO", "message": "listening"}'

    assert not list(log_errors([allowed], "s3cret", Report()))
    assert list(log_errors([allowed, line], "s3cret", Report()))
