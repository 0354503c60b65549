"""Google's values, read through each of the three ways in: an audit log entry, a push envelope, a listing."""

import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from json import loads
from math import inf
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.events import InstanceCreated, InstanceInterrupted
from app.errors import MalformedEntryError
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import decode_push
from app.gcp.values import epoch_seconds, is_valid_text
from tests.support.compute_api import ComputeApi, FakeInstance, node_labels
from tests.support.entries import encoded, envelope, insert, preempted, without
from tests.support.process import LOOPBACK

TIMESTAMPS: Final[Mapping[str, tuple[str, float]]] = {
    "seconds": ("2026-03-02T11:40:55Z", 1772451655.0),
    "milliseconds": ("2026-03-02T11:40:55.308Z", 1772451655.308),
    "nanoseconds": ("2026-03-02T11:40:55.308114927Z", 1772451655.308114),
    "any-fraction": (f"2026-03-02T11:40:55.308{'0' * 1000}Z", 1772451655.308),
    "offset": ("2026-03-02T12:40:55.308+01:00", 1772451655.308),
    "negative-offset": ("2026-03-01T04:05:06.789-08:00", 1772366706.789),
    "unknown-offset": ("2026-03-02T11:40:55-00:00", 1772451655.0),
    "lower-case": ("2026-03-02t11:40:55z", 1772451655.0),
    "before-the-epoch": ("1969-12-31T23:59:59Z", -1.0),
    "the-earliest": ("0002-01-01T00:00:00+23:59", -62104147140.0),
    "the-latest": ("9998-12-31T23:59:59-23:59", 253370851139.0),
    "leap-second": ("2016-12-31T23:59:60Z", 1483228799.0),
    "leap-second-elsewhere": ("2016-12-31T15:59:60.5-08:00", 1483228799.5),
}
NOT_TIMESTAMPS: Final[Mapping[str, str]] = {
    "empty": "",
    "word": "yesterday",
    "number": "1772451655",
    "date-alone": "2026-03-02",
    "no-seconds": "2026-03-02T11:40Z",
    "no-offset": "2026-03-02T11:40:55",
    "no-offset-with-a-fraction": "2026-03-02T11:40:55.308114",
    "short-offset": "2026-03-02T11:40:55+01",
    "offset-without-a-colon": "2026-03-02T11:40:55+0100",
    "offset-of-99-hours": "2026-03-02T11:40:55+99:00",
    "offset-with-seconds": "2026-03-02T11:40:55+01:00:00",
    "no-such-day": "2026-02-30T00:00:00Z",
    "hour-24": "2026-03-01T24:00:00Z",
    "hour-25": "2026-03-01T25:00:00Z",
    "minute-60": "2026-03-02T11:60:00Z",
    "second-61": "2026-03-02T11:40:61Z",
    "empty-fraction": "2026-03-02T11:40:55.Z",
    "comma": "2026-03-02T11:40:55,308Z",
    "week": "2026-W10-1T11:40:55Z",
    "basic-format": "20260302T114055Z",
    "space-for-T": "2026-03-02 11:40:55Z",
    "space-before": " 2026-03-02T11:40:55Z",
    "newline-after": "2026-03-02T11:40:55Z\n",
    "nul-within": "2026-03-02T11:40:55\x00Z",
    "digits-of-another-alphabet": "٢٠٢٦-03-02T11:40:55Z",
    "not-ascii": "ÿ",
    "year-0": "0000-01-01T00:00:00Z",
    "year-1": "0001-01-01T00:00:00Z",
    "before-the-calendar": "0001-01-01T00:00:00+23:59",
    "year-9999": "9999-12-31T23:59:59Z",
    "at-the-calendar's-end": "9999-12-31T23:59:59.999999999Z",
    "after-the-calendar": "9999-12-31T23:59:59-23:59",
    "year-99999": "99999-01-01T00:00:00Z",
}
READINGS: Final[Mapping[str, tuple[str, float | None]]] = {
    **TIMESTAMPS,
    **{name: (text, None) for name, text in NOT_TIMESTAMPS.items()},
}

TEXTS: Final[Mapping[str, tuple[str, bool]]] = {
    "plain": ("tills", True),
    "not-ascii": ("kassen-größe-😀", True),
    "no-break-space": ("\xa0", True),
    "512-characters": ("p" * 512, True),
    "512-characters-of-four-bytes": ("😀" * 512, True),
    "513-characters": ("p" * 513, False),
    "nul": ("til\x00ls", False),
    "newline": ("til\nls", False),
    "escape": ("\x1b[31m", False),
    "delete": ("tills\x7f", False),
    "c1-control": ("\x85", False),
    "last-c1-control": ("\x9f", False),
}
SURROGATES: Final = ("\ud800", "tills\udfff", "\ud83d\ud83d")


class Unpublished(NamedTuple):
    key: str = "key"
    published_at: float | None = None


def log_time(timestamp: str, field: str = "timestamp") -> float | None:
    # Infinity is the time of an entry whose own times cannot be read.
    entry = without(preempted(), "timestamp", "receiveTimestamp") | {field: timestamp}
    event = decode_entry(encoded(entry), Unpublished(), inf)
    assert isinstance(event, InstanceInterrupted)
    return None if event.at == inf else event.at


def received_time(timestamp: str) -> float | None:
    return log_time(timestamp, "receiveTimestamp")


def publish_time(timestamp: str) -> float | None:
    return decode_push(encoded(envelope(preempted(), publish_time=timestamp))).published_at


def is_logged(text: str) -> bool:
    entry = insert(cluster=None, labels={"goog-k8s-cluster-name": text})
    try:
        event = decode_entry(encoded(entry), Unpublished(), 0.0)
    except MalformedEntryError:
        return False
    assert isinstance(event, InstanceCreated)
    assert event.node is not None
    return event.node.cluster == text


@pytest.fixture(scope="module")
def instances() -> Sequence[list[Any]]:
    """The lines of one listing: an instance per timestamp, and one per text, named by the row."""
    # Importing the client library takes long. Only the process that runs these tests needs it.
    from app.gcp.compute.__main__ import parsed  # noqa: PLC0415
    from app.gcp.compute.reading import read, source_of  # noqa: PLC0415

    by_time = [
        FakeInstance(name, labels=node_labels("tills"), created=timestamp, started=timestamp)
        for name, (timestamp, _) in READINGS.items()
    ]
    by_text = [FakeInstance(f"text-{name}", labels=node_labels(text)) for name, (text, _) in TEXTS.items()]
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, ComputeApi() as api:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, LOOPBACK)
        api.projects["shop"] = [*by_time, *by_text]
        options = parsed(["--project", "shop", "--endpoint", api.url])
        exit_code = read(source_of(options.read), options, stream)
    assert exit_code == 0
    return [line for line in map(loads, stream.getvalue().splitlines()) if isinstance(line, list)]


@pytest.mark.parametrize("row", READINGS)
@pytest.mark.parametrize(
    "read",
    [epoch_seconds, log_time, received_time, publish_time],
    ids=["value", "log", "received", "envelope"],
)
def test_a_timestamp_is_read_alike_in_a_log_entry_and_an_envelope(
    read: Callable[[str], float | None], row: str
) -> None:
    timestamp, seconds = READINGS[row]

    assert read(timestamp) == seconds


@pytest.mark.parametrize("row", READINGS)
def test_a_timestamp_is_read_alike_in_a_listing(instances: Sequence[list[Any]], row: str) -> None:
    _, seconds = READINGS[row]

    assert [line[10:] for line in instances if line[1] == row] == [[seconds, seconds]]


def test_a_timestamp_that_is_missing_is_none() -> None:
    assert epoch_seconds(None) is None


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def test_a_timestamp_does_not_depend_on_the_local_time_zone(elsewhere: None) -> None:
    assert os.environ["TZ"]
    assert [epoch_seconds(text) for text, _ in READINGS.values()] == [at for _, at in READINGS.values()]


@given(
    text=st.text()
    | st.datetimes().map(str)
    | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", fullmatch=True)
)
def test_any_text_is_a_time_or_none(text: str) -> None:
    assert isinstance(epoch_seconds(text), float | None)


@pytest.mark.parametrize("row", TEXTS)
@pytest.mark.parametrize("is_taken", [is_valid_text, is_logged], ids=["value", "log"])
def test_a_text_is_taken_from_a_log_entry_if_it_can_be_stored_and_shown(
    is_taken: Callable[[str], bool], row: str
) -> None:
    text, valid = TEXTS[row]

    assert is_taken(text) is valid


@pytest.mark.parametrize("row", TEXTS)
def test_a_text_is_taken_from_a_listing_if_it_can_be_stored_and_shown(
    instances: Sequence[list[Any]], row: str
) -> None:
    text, valid = TEXTS[row]

    assert [line[4] for line in instances if line[1] == f"text-{row}"] == [text] * valid


@pytest.mark.parametrize("text", SURROGATES)
def test_half_of_a_surrogate_pair_is_not_valid_text(text: str) -> None:
    assert not is_valid_text(text)
    assert not is_logged(text)


def test_each_of_several_texts_may_have_512_characters() -> None:
    assert is_valid_text("a" * 512, "b" * 512)
    assert not is_valid_text("a", "b" * 513)
    assert not is_valid_text("a" * 512, "b" * 512, "\x00")
