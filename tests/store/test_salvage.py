"""The salvage of a damaged store: what is damaged costs only itself."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import apsw
import pytest

from app.domain.batch import MAX_INCARNATIONS
from app.domain.events import Event, InstanceInterrupted, InstanceName, InterruptionDetails
from app.domain.instances import Labels
from app.domain.ledger import Query
from app.domain.outcomes import Counted, Duplicate, Pending
from app.domain.times import rfc3339
from app.domain.totals import LabelSetTotals, Totals
from app.errors import StartError
from app.store.opening import inspect_store, open_store
from app.store.port import OpenedStore
from tests.store.conftest import RULES
from tests.store.stories import life, list_fleet, lives
from tests.support.examples import DAY, GRACE, LAB, NAME, NOW, TILLS, created, failed, interrupted, listed
from tests.support.sqlite_files import KILLED_AT_RENAME, contents, overwrite_page

BEGAN: Final = NOW - DAY
HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
FILLS: Final[dict[str, Callable[[int], bytes]]] = {
    "pattern": lambda size: b"\xa5" * size,
    "zeros": bytes,
    "random": lambda size: Random(size).randbytes(size),  # noqa: S311 - reproducible
}
fills = pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
TABLES: Final = (
    "event_keys",
    "instances",
    "archived_instances",
    "pending",
    "ledger",
    "label_sets",
    "clusters",
    "lifetimes",
    "projects",
    "listings",
    "clocks",
)
WITHOUT_ROOM: Final = """
import resource, signal, sys
from app.domain.changes import Rules
from app.errors import StartError
from app.store.opening import open_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    open_store(f"sqlite:///{sys.argv[1]}", Rules())
except StartError as exc:
    print(exc)
"""
WINDOW: Final = re.compile(r"those that were recorded from (.+) to (.+)")


@dataclass
class Example:
    """A store that is not in use, and what it holds."""

    folder: Path
    commits: list[tuple[Sequence[Event], float]] = field(default_factory=list)
    """The events of each commit, and its time."""
    totals: Totals = field(default_factory=Totals)
    ledger_rows: int = 0

    @property
    def path(self) -> Path:
        return self.folder / "store.db"

    @property
    def wal(self) -> Path:
        return self.folder / "store.db-wal"

    @property
    def page_bytes(self) -> int:
        return int.from_bytes(self.path.read_bytes()[16:18], "big")

    def copied(self, folder: Path) -> Path:
        """Copy the store, and return the path of the copy."""
        shutil.copytree(self.folder, folder)
        return folder / "store.db"


@dataclass(frozen=True)
class Report:
    """The log line about a damaged store."""

    damage: str
    moved_to: str
    kept: Sequence[str]
    lost: Sequence[str]
    countable_again: str | None

    @classmethod
    def of(cls, caplog: pytest.LogCaptureFixture) -> "Report | None":
        errors = [vars(record) for record in caplog.records if record.levelname == "ERROR"]
        if not errors:
            return None
        (error,) = errors
        return cls(**{name: error[name] for name in cls.__annotations__})

    def explains(self, recorded_at: float) -> bool:
        """Return True if it says that an event of that time may count again."""
        if self.countable_again is None:
            return False
        window = WINDOW.fullmatch(self.countable_again)
        assert window is not None
        since, until = window.groups()
        begin = rfc3339(0) if since == "the first start" else since
        return moment(begin) <= recorded_at <= moment(until)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def named(instance: str) -> InstanceName:
    return NAME._replace(instance=instance)


def batches() -> Iterator[Sequence[Event]]:
    """The events of the example's commits."""
    for number in range(0, 120, 6):
        node = TILLS if number % 4 else LAB
        lived = lives(*(life(number + offset, node=node, at=BEGAN + number) for offset in range(5)))
        yield [*lived, created(f"alive-{number}", BEGAN, name=named(f"alive-{number}"), node=node)]
    for number in range(12):
        name, instance_id = named("recreated"), f"start-{number}"
        yield [
            created(instance_id, BEGAN + number, name=name),
            interrupted(instance_id, BEGAN + number + 0.5, name=name),
        ]
    yield [created("stockout", BEGAN, name=named("stockout")), failed("stockout", name=named("stockout"))]
    yield [interrupted("nobody", BEGAN, name=named("nobody"))]


def fill_store(example: Example, *, keep_wal: bool) -> None:
    """Fill the store; with a WAL, it is left as by `kill -9` after a checkpoint and further commits."""
    working = example.folder.parent / "working"
    working.mkdir()
    opened = open_store(f"sqlite:///{working}/store.db", RULES)
    store = opened.store
    store.accrue_instance_seconds(BEGAN)
    list_fleet(store, [listed("alive", BEGAN - DAY, name=named("listed"))], BEGAN)
    for number, events in enumerate(batches()):
        now = BEGAN + 60 * (1 + number)
        store.accrue_instance_seconds(now)
        store.apply(events, now)
        example.commits.append((events, now))
        if number == 20:
            with closing(apsw.Connection(f"{working}/store.db")) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    example.totals = store.state().totals
    example.ledger_rows = len(opened.ledger.interruptions(Query(limit=1000)))
    if keep_wal:
        shutil.copytree(working, example.folder)
    store.close()
    if not keep_wal:
        shutil.copytree(working, example.folder)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A store without a WAL."""
    example = Example(tmp_path_factory.mktemp("closed") / "example")
    fill_store(example, keep_wal=False)
    return example


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A store with commits in its WAL."""
    example = Example(tmp_path_factory.mktemp("killed") / "example")
    fill_store(example, keep_wal=True)
    return example


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def pages_of(path: Path, table: str) -> Sequence[int]:
    """Return the pages of a table, the first of the file being 0."""
    with closing(apsw.Connection(str(path))) as connection:
        pages = connection.execute("SELECT pageno FROM dbstat WHERE name = ?", (table,))
        return [int(str(page)) - 1 for (page,) in pages]


def counters(row: LabelSetTotals) -> tuple[float, ...]:
    return row.interruptions, row.created, row.failed, row.instance_seconds


def check_counters(before: Totals, after: Totals) -> None:
    """Check that each counter is what it was, or 0."""
    for labels, row in after.label_sets.items():
        known = before.label_sets[labels]
        for now, then in zip(counters(row), counters(known), strict=True):
            assert now in (0, then)
    for name, cluster in after.clusters.items():
        assert cluster.interruptions in (0, before.clusters[name].interruptions)
    for key, lifetime in after.lifetimes.items():
        known_lifetime = before.lifetimes[key]
        nothing = [0] * len(lifetime.buckets)
        assert (lifetime.buckets, lifetime.sum) in (
            (nothing, 0),
            (known_lifetime.buckets, known_lifetime.sum),
        )


def events_counted(totals: Totals) -> int:
    rows = totals.label_sets.values()
    return sum(row.interruptions + row.created + row.failed for row in rows)


def gauges(totals: Totals) -> dict[Labels, int]:
    return {labels: row.instances for labels, row in totals.label_sets.items() if row.instances}


def ledger_rows(opened: OpenedStore) -> int:
    return len(opened.ledger.interruptions(Query(limit=1000)))


def check_salvaged(example: Example, opened: OpenedStore, report: Report | None) -> None:
    """Check the counters, and that an event counts again only if the log says so."""
    store = opened.store
    before = store.state()
    check_counters(example.totals, before.totals)
    assert (report is None) == (opened.moved_aside_to is None)
    if report is None:
        assert before.totals == example.totals
    elif "newest" not in str(report.lost):
        assert ("ledger" in report.kept) <= (ledger_rows(opened) == example.ledger_rows)
        assert ("instances" in report.kept) <= (gauges(before.totals) == gauges(example.totals))
    if report is None or report.countable_again is None:
        store.apply([event for events, _ in example.commits for event in events], NOW)
        assert events_counted(store.state().totals) == events_counted(before.totals)
        return
    for events, recorded_at in example.commits:
        counted = events_counted(store.state().totals)
        store.apply(events, NOW)
        counts_again = events_counted(store.state().totals) > counted
        assert not counts_again or report.explains(recorded_at)


def start(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[OpenedStore, Report | None]:
    caplog.clear()
    opened = open_store(f"sqlite:///{path}", RULES)
    return opened, Report.of(caplog)


def damaged(
    example: Example, folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object]
) -> Report | None:
    """Start with a damaged copy of the example, check it, and return what the log says."""
    path = example.copied(folder)
    damage(path)
    opened, report = start(path, caplog)
    check_salvaged(example, opened, report)
    opened.store.close()
    again, nothing = start(path, caplog)
    again.store.close()
    assert nothing is None
    return report


@fills
def test_with_any_damaged_page_each_counter_is_kept_or_begins_at_0(
    closed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture, fill: Callable[[int], bytes]
) -> None:
    size = closed.page_bytes

    def damage(path: Path, page: int) -> None:
        overwrite(path, page * size, fill(size))

    pages = range(closed.path.stat().st_size // size)
    reports = [damaged(closed, tmp_path / str(page), caplog, partial(damage, page=page)) for page in pages]

    kept = [report.kept for report in reports if report is not None]
    assert len(kept) == len(pages)
    # The others are of the header and the schema.
    assert sum(len(tables) == len(TABLES) - 1 for tables in kept) > len(pages) - 5


def test_a_damaged_page_costs_only_its_rows(
    closed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, *leaves = pages_of(closed.path, "event_keys")
    with closing(apsw.Connection(str(closed.path))) as connection:
        number = int(str(connection.execute("SELECT count(*) FROM event_keys").get))
    assert len(leaves) > 4
    for page in leaves:
        path = closed.copied(tmp_path / str(page))
        overwrite(path, page * closed.page_bytes, b"\xa5" * closed.page_bytes)

        opened, report = start(path, caplog)

        assert report is not None
        (lost,) = report.lost
        readable = re.fullmatch("event_keys: damaged, ([0-9]+) rows could be read", lost)
        assert readable is not None
        assert number * 0.6 < int(readable[1]) < number
        opened.store.close()


def last_pages(path: Path) -> dict[str, int]:
    """Return the last page of the schema, and of each table with its indexes. The file begins with page 0."""
    with closing(apsw.Connection(str(path))) as connection:
        pages = connection.execute(
            "SELECT coalesce(tbl_name, dbstat.name), max(pageno) - 1 FROM dbstat"
            " LEFT JOIN sqlite_schema USING (name) GROUP BY 1"
        )
        return {str(table): int(str(page)) for table, page in pages}


def test_a_shortened_file_costs_only_the_tables_behind_its_end(
    closed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = last_pages(closed.path)
    schema = last.pop("sqlite_schema")
    assert last.keys() == set(TABLES)
    for page in {page for page in last.values() if page > schema}:

        def shorten(path: Path, page: int = page) -> None:
            os.truncate(path, page * closed.page_bytes)

        report = damaged(closed, tmp_path / str(page), caplog, shorten)

        assert report is not None
        assert set(report.kept) == {table for table in TABLES if last[table] < page}


def frames(example: Example) -> Sequence[bytes]:
    """Return the headers of the frames that were written since the checkpoint."""
    wal, size = example.wal.read_bytes(), example.page_bytes + FRAME_HEADER_BYTES
    headers = [wal[at : at + FRAME_HEADER_BYTES] for at in range(HEADER_BYTES, len(wal), size)]
    return [header for header in headers if header[8:16] == wal[16:24]]


def commit_marks(example: Example) -> Sequence[int]:
    """Return the frames that end a commit."""
    return [number for number, header in enumerate(frames(example)) if header[4:8] != bytes(4)]


@fills
def test_with_any_damaged_frame_of_the_wal_each_counter_is_kept_or_begins_at_0(
    killed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture, fill: Callable[[int], bytes]
) -> None:
    size = killed.page_bytes + FRAME_HEADER_BYTES
    *_, last_but_one, _ = commit_marks(killed)

    def damage(path: Path, frame: int) -> None:
        overwrite(Path(f"{path}-wal"), HEADER_BYTES + frame * size, fill(size))

    for frame in {*range(0, last_but_one, 29), last_but_one - 1}:
        report = damaged(killed, tmp_path / str(frame), caplog, partial(damage, frame=frame))

        assert report is not None
        assert report.damage.startswith(f"frame {frame + 1} of its WAL is damaged")
        assert "the newest commits, so that all counters begin at 0" in report.lost
        assert set(TABLES) - {"label_sets", "clusters", "lifetimes"} == set(report.kept)


def test_a_flipped_byte_anywhere_in_the_wal_is_found(
    killed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = Random(21)  # noqa: S311 - reproducible
    size = killed.page_bytes + FRAME_HEADER_BYTES
    end = HEADER_BYTES + commit_marks(killed)[-2] * size
    for number in range(12):
        path = killed.copied(tmp_path / str(number))
        wal = bytearray(Path(f"{path}-wal").read_bytes())
        at = random.randrange(end) if number else 3
        wal[at] ^= 1 << random.randrange(8)
        Path(f"{path}-wal").write_bytes(wal)

        opened, report = start(path, caplog)

        assert report is not None
        assert not any(row.interruptions for row in opened.store.state().totals.clusters.values())
        opened.store.close()


def cut_off(example: Example, path: Path, commits: Sequence[int]) -> None:
    """Leave only some of the commits in the WAL of a copy, in this order."""
    size = example.page_bytes + FRAME_HEADER_BYTES
    wal = example.wal.read_bytes()
    ends = [HEADER_BYTES + (mark + 1) * size for mark in commit_marks(example)]
    begins = [HEADER_BYTES, *ends]
    parts = [wal[begins[number] : ends[number]] for number in commits]
    Path(f"{path}-wal").write_bytes(wal[:HEADER_BYTES] + b"".join(parts))


def test_a_sound_wal_with_frames_of_an_earlier_generation_is_read(
    killed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = killed.page_bytes + FRAME_HEADER_BYTES
    assert len(frames(killed)) < (killed.wal.stat().st_size - HEADER_BYTES) // size

    assert damaged(killed, tmp_path / "copy", caplog, lambda _: None) is None


def test_an_incomplete_last_commit_is_not_damage(
    killed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = killed.copied(tmp_path / "copy")
    *_, before, last = commit_marks(killed)
    size = killed.page_bytes + FRAME_HEADER_BYTES
    assert last > before + 1
    overwrite(Path(f"{path}-wal"), HEADER_BYTES + (before + 1) * size, bytes(size))

    opened, report = start(path, caplog)

    assert report is None
    assert opened.store.state().pending == 0
    assert events_counted(opened.store.state().totals) == events_counted(killed.totals)
    opened.store.close()


def test_frames_of_failed_commits_in_the_wal_are_not_damage(
    killed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # After a commit that failed, the next one begins at the same place. If it is shorter, the end of the
    # failed one is left behind it.
    path = killed.copied(tmp_path / "copy")
    cut_off(killed, path, [0, 1, 2, 5, 4])

    opened, report = start(path, caplog)

    assert report is None
    opened.store.close()


def test_check_finds_damage_in_the_wal_and_leaves_it(killed: Example, tmp_path: Path) -> None:
    path = killed.copied(tmp_path / "copy")
    overwrite(Path(f"{path}-wal"), 5000, b"\xa5")
    before = contents(path.parent)

    with pytest.raises(StartError, match="frame 3 of its WAL is damaged"):
        inspect_store(f"sqlite:///{path}")

    assert contents(path.parent) == before


FOUND: Final = replace(
    interrupted("alive-0", BEGAN + 3000, name=named("alive-0")), details=InterruptionDetails("operation")
)


@pytest.mark.parametrize(
    ("table", "counts"),
    [("event_keys", False), ("ledger", True), ("instances", True), ("clusters", True)],
)
def test_an_operation_from_before_keys_were_lost_moves_no_counter(
    closed: Example, tmp_path: Path, table: str, *, counts: bool
) -> None:
    path = closed.copied(tmp_path / "copy")
    overwrite_page(path, table)
    opened = open_store(f"sqlite:///{path}", RULES)
    opened.store.accrue_instance_seconds(NOW)

    applied = opened.store.recover([FOUND], -1, NOW)

    assert bool(applied.outcomes) == counts
    assert bool(applied.changed) == counts
    opened.store.close()


def test_keys_that_were_lost_are_found_in_the_ledger(
    closed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = closed.copied(tmp_path / "copy")
    size = closed.page_bytes
    for page in pages_of(path, "event_keys"):
        overwrite(path, page * size, b"\xa5" * size)

    opened, report = start(path, caplog)

    assert report is not None
    assert report.lost == ["event_keys: damaged, 0 rows could be read"]
    interruptions = [
        event for events, _ in closed.commits for event in events if isinstance(event, InstanceInterrupted)
    ]
    outcomes = opened.store.apply(interruptions, NOW).outcomes
    assert [type(outcome) for outcome in outcomes] == [Duplicate] * len(interruptions)
    opened.store.close()


def test_a_lost_fleet_is_not_known_before_the_next_listing(closed: Example, tmp_path: Path) -> None:
    path = closed.copied(tmp_path / "copy")
    overwrite_page(path, "instances")

    opened = open_store(f"sqlite:///{path}", RULES)

    assert not opened.store.state().listed
    opened.store.close()


def test_an_archived_life_of_a_name_attributes_if_its_newer_lives_are_lost(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = open_store(f"sqlite:///{path}", RULES).store
    ids = [str(number) for number in range(3 * MAX_INCARNATIONS)]
    for number, instance_id in enumerate(ids):
        node = TILLS if number < 2 * MAX_INCARNATIONS else LAB
        store.apply([created(instance_id, NOW + number, node=node)], NOW + number)
    store.close()
    overwrite_page(path, "instances")

    store = open_store(f"sqlite:///{path}", RULES).store
    assert isinstance(store.apply([interrupted("unknown", NOW + DAY)], NOW + DAY).outcomes[0], Pending)
    (counted,) = store.expire(NOW + DAY + GRACE).counted
    late = [interrupted(instance_id, NOW + DAY) for instance_id in ids[: 2 * MAX_INCARNATIONS]]
    outcomes = store.apply(late, NOW + DAY + GRACE).outcomes
    store.close()

    assert counted.node == TILLS
    assert {type(outcome) for outcome in outcomes} == {Counted}


def test_a_grace_period_begins_again_if_its_clock_is_lost(closed: Example, tmp_path: Path) -> None:
    path = closed.copied(tmp_path / "copy")
    overwrite_page(path, "clocks")
    opened = open_store(f"sqlite:///{path}", RULES)

    opened.store.expire(NOW)
    opened.store.expire(NOW + GRACE - 1)
    assert opened.store.state().pending == 1
    opened.store.expire(NOW + GRACE)

    assert opened.store.state().pending == 0
    opened.store.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE clusters SET cluster = CAST(x'74ff' AS TEXT) WHERE cluster = 'tills'",
        "UPDATE label_sets SET node_pool = CAST(x'74ff' AS TEXT) WHERE cluster = 'tills'",
        "UPDATE lifetimes SET buckets = '[1'",
        "UPDATE lifetimes SET buckets = '[1]'",
        "UPDATE clusters SET interruptions = 'many'",
        "UPDATE listings SET project = CAST(x'ff' AS TEXT)",
        "ALTER TABLE clusters RENAME COLUMN interruptions TO interruptionr",
    ],
)
def test_a_value_that_no_start_could_read_costs_its_table(
    closed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    path = closed.copied(tmp_path / "copy")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(change)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    opened, report = start(path, caplog)

    assert report is not None
    assert report.damage.startswith("a row of the table ")
    assert len(report.kept) == len(TABLES) - 1
    check_salvaged(closed, opened, report)
    opened.store.close()


@pytest.mark.parametrize("renames", range(5))
def test_a_kill_while_a_store_is_replaced_costs_no_counter(
    closed: Example, tmp_path: Path, caplog: pytest.LogCaptureFixture, renames: int
) -> None:
    path = closed.copied(tmp_path / "copy")
    overwrite_page(path, "ledger")
    command = [sys.executable, "-c", KILLED_AT_RENAME, str(path), str(renames)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 9
    assert "the store was damaged" in run.stderr

    opened = open_store(f"sqlite:///{path}", RULES)

    [error] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert vars(error)["moved_to"] == str(opened.moved_aside_to)
    totals = opened.store.state().totals
    assert totals.label_sets == closed.totals.label_sets
    assert totals.clusters["tills"] == closed.totals.clusters["tills"]
    assert 0 < ledger_rows(opened) < closed.ledger_rows
    opened.store.close()
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside == opened.moved_aside_to
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.lock", aside.name}


def test_a_damaged_store_that_cannot_be_copied_stays_where_it_is(closed: Example, tmp_path: Path) -> None:
    path = closed.copied(tmp_path / "copy")
    overwrite_page(path, "ledger")
    before = contents(path.parent)

    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOM, str(path)], check=True, capture_output=True, text=True
    )

    assert run.stdout.startswith(f"the store {path} cannot be opened: ")
    assert contents(path.parent) == before


def test_a_damaged_store_of_a_newer_version_is_left_alone(closed: Example, tmp_path: Path) -> None:
    path = closed.copied(tmp_path / "copy")
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA user_version = 99")
    overwrite_page(path, "ledger")
    before = contents(path.parent, but="-shm")

    with pytest.raises(StartError, match="has schema 99, newer than"):
        open_store(f"sqlite:///{path}", RULES)

    assert contents(path.parent, but="-shm") == before
