"""Both ways of a push answer and count it in the same way: the direct one, and that through ASGI."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from app.metrics import Endpoint
from tests.support.entries import insert, preempted, push, system_event
from tests.support.exporter import Exporter, issuer, subscription, token
from tests.support.stores import Disk

OTHER: Final = "projects/shop-prod/subscriptions/another"
_CLOCKS: Final = ("process_", "python_", "timestamp", "store_commit_seconds", "event_delay_seconds_sum")
"""Parts of the names of series that differ from run to run."""


class Push(NamedTuple):
    endpoint: Endpoint
    body: bytes
    authorization: str | None = "good"


def delivered(endpoint: Endpoint, entry: object, **fields: object) -> Push:
    return Push(endpoint, push(entry, **{"subscription": subscription(endpoint), **fields}))  # type: ignore[arg-type]


PUSHES: Final = {
    "creation": delivered("creation", insert("node-1")),
    "the-same": delivered("creation", insert("node-1")),
    "interruption": delivered("interruption", preempted("node-1")),
    "redelivery": delivered("interruption", preempted("node-1"), message_id="9"),
    "pending": delivered("interruption", preempted("node-2")),
    "released": delivered("creation", insert("node-2")),
    "ignored": delivered("creation", system_event("compute.instances.hostError")),
    "no-node": delivered("creation", insert("vm", cluster=None)),
    "of-another-subscription": delivered("creation", insert("node-3"), subscription=OTHER),
    "no-entry": delivered("creation", b"[]"),
    "no-envelope": Push("creation", b"{}"),
    "no-json": Push("interruption", b"\xff"),
    "nothing": Push("interruption", b""),
    "too-large": Push("creation", push(insert("node-4")) + b" " * 100_000),
    "nobody's": Push("creation", push(insert("node-5")), None),
    "a-stranger's": Push("creation", push(insert("node-5")), "Bearer x.y.z"),
    "of-another-account": Push("creation", push(insert("node-5")), token(issuer(), email="eve@example.com")),
}


class Caller:
    """A caller of an exporter."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._connection = http.client.HTTPConnection("127.0.0.1", exporter.ports[0], timeout=20)

    def answer(self, one: Push) -> tuple[int, dict[str, str], object]:
        """Push, and return the status, the headers and the document."""
        given = self._exporter.authorization if one.authorization == "good" else one.authorization
        lines = [
            f"POST /events/{one.endpoint} HTTP/1.1",
            "Host: exporter",
            f"Content-Length: {len(one.body)}",
        ]
        lines += [f"Authorization: {given}"] if given is not None else []
        self._connection.connect()
        self._connection.sock.sendall("\r\n".join([*lines, "", ""]).encode() + one.body)
        response = http.client.HTTPResponse(self._connection.sock, method="POST")
        response.begin()
        document = json.loads(response.read())
        self._connection.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, {**headers, "date": "", "connection": ""}, document


@pytest.fixture
def exporters(tmp_path: Path) -> Iterator[tuple[Exporter, Exporter]]:
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    settings = {"server.max_body_bytes": 50_000}
    with (
        Exporter(folders[0], settings) as one,
        Exporter(folders[1], settings, direct_pushes=False) as other,
    ):
        yield one, other


def series(exporter: Exporter) -> list[str]:
    lines = exporter.scrape().text.splitlines()
    pushed = [line.rpartition(" ")[0] for line in lines if "last_push_timestamp" in line]
    return [*pushed, *(line for line in lines if not any(clock in line for clock in _CLOCKS))]


def test_both_ways_answer_and_count_the_same(exporters: tuple[Exporter, Exporter]) -> None:
    one, other = Caller(exporters[0]), Caller(exporters[1])

    answers = {name: (one.answer(sent), other.answer(sent)) for name, sent in PUSHES.items()}

    assert {name: direct for name, (direct, _) in answers.items()} == {
        name: other for name, (_, other) in answers.items()
    }
    assert {status for (status, _, _), _ in answers.values()} == {200, 400, 401, 403, 413, 422}
    assert series(exporters[0]) == series(exporters[1])


def test_without_the_store_both_ways_answer_the_same(tmp_path: Path) -> None:
    disk = Disk()
    answers = []
    for direct in (True, False):
        folder = tmp_path / str(direct)
        folder.mkdir()
        with Exporter(folder, open_store=disk.open, direct_pushes=direct) as exporter:
            caller = Caller(exporter)
            assert caller.answer(PUSHES["creation"])[0] == 200
            disk.away = True
            answers.append(caller.answer(PUSHES["interruption"]))
            disk.away = False
            assert caller.answer(PUSHES["interruption"])[2]["outcome"] == "counted"  # type: ignore[index]

    assert answers[0] == answers[1]
    assert answers[0][0] == 503
