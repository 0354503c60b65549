from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fuzz.caller import Answer
from tests.fuzz.cases import Case, case
from tests.fuzz.draft import MARKER
from tests.fuzz.envelopes import Backend, run
from tests.fuzz.judge import may_follow, unlike_the_contract, wrong_lines
from tests.fuzz.kept import read_failed, write_failed
from tests.fuzz.report import Report
from tests.support.entries import encoded

_SEED: Final = 1


@pytest.mark.parametrize(
    ("store", "cases"), [pytest.param("sqlite", 2_000, id="sqlite"), pytest.param("redis", 1_500, id="redis")]
)
def test_mutants_are_answered_as_the_contract_says_and_harm_no_good_message(
    tmp_path: Path, store: Backend, cases: int
) -> None:
    report = run(tmp_path, (case(_SEED, number) for number in range(cases)), store=store)

    assert not report.wrong, "\n".join(report.wrong[:20])
    assert report.cases == cases
    assert {"tracked", "counted", "pending", "duplicate", "ignored"} == report.outcomes.keys()
    assert report.reasons.keys() == {
        "malformed_envelope",
        "malformed_entry",
        "not_authenticated",
        "wrong_subscription",
    }
    assert report.good_counted.total() > cases / 50


def test_a_case_follows_from_its_seed_and_number() -> None:
    assert [case(_SEED, number) for number in range(50)] == [case(_SEED, number) for number in range(50)]
    assert case(_SEED, 7) != case(_SEED + 1, 7)


def test_a_failed_case_is_kept_to_be_sent_again(tmp_path: Path) -> None:
    cases = [case(_SEED, number) for number in range(200)]
    write_failed(tmp_path / "failed", ((one, "for a reason") for one in cases))

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
SOUND: Final = Case(1, "preempted", "interruption", b"", (), frozenset({"counted"}))
FORGED: Final = Case(1, "preempted", "interruption", b"", ("headers",), authorization=b"Bearer x")
JSON: Final = "application/json"


@pytest.mark.parametrize(
    ("pushed", "answer", "fault"),
    [
        pytest.param(DAMAGED, problem(422, "malformed_entry"), None, id="refused"),
        pytest.param(DAMAGED, answer(200, {"outcome": "ignored", "reason": "r"}, JSON), None, id="ignored"),
        pytest.param(FORGED, problem(401, "not_authenticated"), None, id="unauthentic"),
        pytest.param(DAMAGED, problem(500, "internal"), "not in the contract", id="bug"),
        pytest.param(DAMAGED, problem(503, "overload"), "not in the contract", id="unavailable"),
        pytest.param(DAMAGED, problem(400, "malformed_entry"), "not in the contract", id="mixed"),
        pytest.param(
            DAMAGED, problem(422, "malformed_entry", detail=MARKER), "echoes what was sent", id="echo"
        ),
        pytest.param(DAMAGED, problem(422, "malformed_entry", trace="t"), "no problem document", id="more"),
        pytest.param(DAMAGED, answer(422, {"reason": "malformed_entry"}, JSON), "of another", id="json"),
        pytest.param(DAMAGED, problem(401, "not_authenticated"), "the token is not", id="good-token"),
        pytest.param(FORGED, problem(422, "malformed_entry"), "the token is not", id="bad-token"),
        pytest.param(FORGED, answer(200, {"outcome": "ignored"}, JSON), "taken without", id="forged"),
        pytest.param(SOUND, problem(422, "malformed_entry"), "a sound message", id="sound-refused"),
        pytest.param(
            SOUND, answer(200, {"outcome": "pending"}, JSON), "not what becomes", id="other-outcome"
        ),
        pytest.param(DAMAGED, answer(200, {"outcome": "ignored"}, JSON), "other fields", id="no-reason"),
        pytest.param(DAMAGED, answer(200, {}, JSON), "no outcome", id="no-outcome"),
        pytest.param(TRACKED, tracked(), None, id="tracked"),
        pytest.param(TRACKED, tracked(zone="z\x00"), "names what cannot", id="unfit"),
        pytest.param(TRACKED, tracked(node_pool=""), "names what cannot", id="empty"),
    ],
)
def test_the_judge_sees(pushed: Case, answer: Answer, fault: str | None) -> None:
    found = unlike_the_contract(pushed, answer, answer.document())

    assert found is None if fault is None else (found or "").startswith(fault)


@pytest.mark.parametrize(
    ("first", "again", "good"),
    [
        ((200, "counted"), (200, "duplicate"), True),
        ((200, "counted"), (200, "counted"), False),
        ((200, "tracked"), (422, "malformed_entry"), False),
        ((200, "last_entry"), (200, "last_entry"), True),
        ((200, "last_entry"), (200, "tracked"), False),
        ((200, "not_a_node"), (200, "counted"), True),
        ((422, "malformed_entry"), (422, "malformed_entry"), True),
        ((422, "malformed_entry"), (200, "tracked"), False),
        ((200, "pending"), None, False),
    ],
)
def test_the_judge_sees_a_repetition_that_is_answered_otherwise(
    first: tuple[int, str],
    again: tuple[int, str] | None,
    good: bool,  # noqa: FBT001
) -> None:
    assert may_follow(first, again) == good


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
def test_the_judge_sees_a_line_that_must_not_be(line: str) -> None:
    good = '{"severity": "INFO", "message": "listening"}'

    assert not list(wrong_lines([good], "s3cret", Report()))
    assert list(wrong_lines([good, line], "s3cret", Report()))
