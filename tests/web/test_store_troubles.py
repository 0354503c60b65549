import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import apsw
import httpx
import pytest

from app.domain.events import InstanceInterrupted, InstanceName
from app.domain.outcomes import Outcome, Pending
from tests.support.entries import insert, push
from tests.support.exporter import Exporter, subscription
from tests.support.process import eventually
from tests.support.raw_http import connected, request_head
from tests.support.recording import record
from tests.support.slow_disk import SlowDisk
from tests.support.stores import Disk
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("both_ways")

COMMIT_TIMEOUT_SECONDS = 0.5


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def exporter(tmp_path: Path, disk: Disk) -> Iterator[Exporter]:
    with Exporter(tmp_path, open_store=disk.open) as exporter:
        yield exporter


@pytest.fixture
def impatient(tmp_path: Path, disk: Disk) -> Iterator[Exporter]:
    with Exporter(tmp_path, open_store=disk.open, commit_timeout_seconds=COMMIT_TIMEOUT_SECONDS) as exporter:
        yield exporter


def test_a_push_without_the_store_is_refused_and_can_be_redelivered(exporter: Exporter, disk: Disk) -> None:
    exporter.create("node-1")
    disk.away = True
    assert_problem(exporter.interrupt("node-1"), HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable")
    assert exporter.refused("interruption", "store_unavailable") == 1
    assert exporter.client.get(f"{exporter.url}/healthz").is_success

    disk.away = False
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 0
    assert exporter.interrupt("node-1").json()["outcome"] == "counted"
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1


def test_an_event_that_was_committed_without_an_answer_counts_once(exporter: Exporter, disk: Disk) -> None:
    exporter.create("node-1")
    disk.loses_answers = True
    assert_problem(exporter.interrupt("node-1"), HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable")

    disk.loses_answers = False
    assert exporter.interrupt("node-1").json()["outcome"] == "duplicate"
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1


@contextmanager
def creating(exporter: Exporter, disk: Disk, names: Sequence[str]) -> Iterator[dict[str, httpx.Response]]:
    """Push these creations during the commit of another one, so that they are one batch."""
    answers: dict[str, httpx.Response] = {}

    def create(name: str) -> None:
        answers[name] = exporter.create(name)

    first, *others = [threading.Thread(target=create, args=(name,)) for name in ("first", *names)]
    with disk.busy():
        first.start()
        eventually(lambda: disk.batches, within=20, what="the first commit")
        for thread in others:
            thread.start()
        eventually(lambda: exporter.parts.recorder.queue_length == len(names), within=20, what="all pushes")
        yield answers
    for thread in (first, *others):
        thread.join()


def test_a_bug_affects_only_the_event_that_meets_it(
    exporter: Exporter, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"node-{number}" for number in range(8)]
    disk.poisonous = {"node-5"}
    with creating(exporter, disk, names) as answers:
        pass

    assert_problem(answers.pop("node-5"), HTTPStatus.INTERNAL_SERVER_ERROR, "internal")
    assert all(answer.json()["outcome"] == "tracked" for answer in answers.values())
    assert sorted(disk.batches[1]) == names

    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.message == "an event could not be recorded"
    assert caplog.text.count("Traceback") == 1
    assert "ZeroDivisionError" in caplog.text

    disk.poisonous = set()
    assert exporter.create("node-5").json()["outcome"] == "tracked"


def test_no_push_is_answered_before_its_commit(exporter: Exporter, disk: Disk) -> None:
    with creating(exporter, disk, ["node-1"]) as answers:
        assert exporter.value("interruption_events_total", kubernetes_cluster="tills") is None
        assert not answers
    assert answers.keys() == {"first", "node-1"}
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 0


def test_a_commit_that_lasts_too_long_is_refused_and_still_counts(impatient: Exporter, disk: Disk) -> None:
    with disk.busy():
        started = time.monotonic()
        assert_problem(impatient.create("node-1"), HTTPStatus.SERVICE_UNAVAILABLE, "store_slow")
        assert time.monotonic() - started >= COMMIT_TIMEOUT_SECONDS
        assert impatient.client.get(f"{impatient.url}/healthz").is_success

    assert impatient.create("node-1").json()["outcome"] == "duplicate"


def test_beyond_ten_thousand_queued_events_the_next_is_refused(exporter: Exporter, disk: Disk) -> None:
    async def record_all(numbers: range) -> list[Outcome]:
        return await asyncio.gather(*(record(exporter.parts.recorder, interruption(n)) for n in numbers))

    with disk.busy():
        first = exporter.perform(record_all(range(1)))
        eventually(lambda: disk.batches, within=20, what="the first commit")
        others = exporter.perform(record_all(range(1, 10_001)))
        eventually(lambda: exporter.parts.recorder.queue_length == 10_000, within=20, what="all events")
        assert_problem(exporter.create("node-1"), HTTPStatus.SERVICE_UNAVAILABLE, "overload")
        assert exporter.refused("creation", "overload") == 1

    assert set(first.result(30) + others.result(30)) == {Pending("p")}
    assert exporter.create("node-1").json()["outcome"] == "tracked"


def interruption(number: int) -> InstanceInterrupted:
    return InstanceInterrupted(str(number), 0.0, InstanceName("p", "z", f"n{number}"), str(number))


def test_an_event_whose_caller_does_not_wait_is_still_committed(exporter: Exporter, disk: Disk) -> None:
    body = push(insert("node-1"), subscription=subscription("creation"))
    head = request_head(f"Authorization: {exporter.authorization}", f"Content-Length: {len(body)}")
    with disk.busy(), connected(exporter) as connection:
        connection.sendall(head + body)
        eventually(lambda: disk.batches, within=20, what="the commit")

    assert exporter.create("node-1").json()["outcome"] == "duplicate"


def test_accepted_events_are_answered_when_the_exporter_stops(exporter: Exporter, disk: Disk) -> None:
    with creating(exporter, disk, ["node-1", "node-2"]) as answers:
        exporter.perform(stop(exporter)).result(120)
        assert_problem(exporter.create("late"), HTTPStatus.SERVICE_UNAVAILABLE, "stopping")

    assert [answer.json()["outcome"] for answer in answers.values()] == ["tracked"] * 3


async def stop(exporter: Exporter) -> None:
    exporter.parts.stopping = True
    exporter.parts.gate.closed = True
    exporter.parts.recorder.close()


def test_while_the_disk_does_not_move_everything_else_is_answered(tmp_path: Path) -> None:
    with SlowDisk() as disk, Exporter(tmp_path) as exporter:
        assert exporter.create("node-1").json()["outcome"] == "tracked"
        answers: list[str] = []
        push = threading.Thread(target=lambda: answers.append(exporter.interrupt("node-1").json()["outcome"]))
        with disk.stopped():
            push.start()
            eventually(lambda: disk.waiting, within=20, what="a read or a write")
            for path in ("/healthz", "/metrics"):
                assert exporter.client.get(f"{exporter.url}{path}").status_code == HTTPStatus.OK
            assert not answers
        push.join()

    assert answers == ["counted"]


def test_while_another_process_writes_the_file_everything_else_is_answered(tmp_path: Path) -> None:
    with Exporter(tmp_path) as exporter:
        assert exporter.create("node-1").json()["outcome"] == "tracked"
        # In this process only the same library may open the file: closing it would release every lock.
        outsider = apsw.Connection(str(tmp_path / "exporter.db"))
        outsider.execute("BEGIN IMMEDIATE")
        push = threading.Thread(target=exporter.interrupt, args=("node-1",))
        push.start()
        eventually(lambda: not exporter.parts.recorder.is_idle, within=20, what="the commit")
        assert exporter.client.get(f"{exporter.url}/healthz").status_code == HTTPStatus.OK
        outsider.execute("ROLLBACK")
        outsider.close()
        push.join()

        assert exporter.interrupt("node-1").json()["outcome"] == "duplicate"
