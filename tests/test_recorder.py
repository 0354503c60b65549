"""The recorder alone, over a real store with a disk that obeys the test."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from app.domain.batch import Applied
from app.domain.changes import Rules
from app.domain.events import Event, InstanceCreated, InstanceInterrupted, InstanceName, Node
from app.domain.outcomes import Counted, Duplicate, Outcome, Pending, Tracked
from app.errors import (
    InternalError,
    StoppingError,
    StoreCorruptError,
    StoreSlowError,
    StoreUnavailableError,
)
from app.metrics import Metrics
from app.recorder import Recorder, Result
from app.store.opening import open_store
from app.store.port import Store
from tests.support.process import eventually
from tests.support.recording import record
from tests.support.stores import Disk

NODE = Node("tills", "europe-west1", "spot", "e2-standard-8")


def created(name: str) -> InstanceCreated:
    return InstanceCreated(f"created {name}", 100.0, instance(name), name, f"op-{name}", NODE, spot=True)


def interrupted(name: str, key: str = "1") -> InstanceInterrupted:
    return InstanceInterrupted(f"interrupted {name} {key}", 200.0, instance(name), name)


def instance(name: str) -> InstanceName:
    return InstanceName("shop-prod", "europe-west1-c", name)


class Writer:
    """A recorder at work. Without `pause_seconds`, a slice of periodic work goes before each batch."""

    def __init__(
        self,
        disk: Disk,
        *,
        commit_timeout_seconds: float = 20,
        batch_linger_seconds: float = 0.0003,
        pause_seconds: float = 0,
    ) -> None:
        self.disk = disk
        self.metrics = Metrics()
        self.store = disk.open("sqlite:///:memory:", Rules()).store
        self.pause_shares: list[float] = []
        """The multiples of the durations of slices for which events have waited."""
        self._pause_seconds = pause_seconds
        self.recorder = Recorder(
            self.store,
            self.metrics,
            commit_timeout_seconds=commit_timeout_seconds,
            batch_linger_seconds=batch_linger_seconds,
            pause_after=self._pause_after,
        )

    def _pause_after(self, _seconds: float, share: float) -> float:
        self.pause_shares.append(share)
        return self._pause_seconds

    async def record(self, event: Event) -> Outcome:
        return await record(self.recorder, event)

    def begin(self, *events: Event) -> "list[asyncio.Task[Outcome]]":
        return [asyncio.create_task(self.record(event)) for event in events]

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Block a first commit during the block, so that the events recorded in it are one batch."""
        with self.disk.busy():
            self.begin(created("the first"))
            await until(lambda: bool(self.disk.batches))
            yield
            await asyncio.sleep(0)  # so that what was begun has been handed over

    def shown(self, cluster: str = "tills") -> str | None:
        line = f'interruption_events_total{{kubernetes_cluster="{cluster}"}} '
        exposition = self.metrics.render("")[0].decode()
        return next((rest for rest in exposition.split("\n") if rest.startswith(line)), "").removeprefix(line)


@asynccontextmanager
async def writing(
    disk: Disk,
    *,
    commit_timeout_seconds: float = 20,
    batch_linger_seconds: float = 0.0003,
    pause_seconds: float = 0,
) -> AsyncIterator[Writer]:
    writer = Writer(
        disk,
        commit_timeout_seconds=commit_timeout_seconds,
        batch_linger_seconds=batch_linger_seconds,
        pause_seconds=pause_seconds,
    )
    running = asyncio.create_task(writer.recorder.run())
    try:
        yield writer
    finally:
        writer.recorder.close()
        await asyncio.wait_for(running, 10)
        writer.store.close()


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition, within=20, what="the next commit of the disk")


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_each_event_gets_its_outcome(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            record = writer.record
            assert await record(created("a")) == Tracked(instance("a"), NODE)
            assert isinstance(await record(interrupted("a")), Counted)
            assert await record(interrupted("a")) == Duplicate()
            assert await record(interrupted("b")) == Pending("shop-prod")

    asyncio.run(scenario())


def test_queued_events_are_one_commit_in_their_order(disk: Disk) -> None:
    names = [f"n{number}" for number in range(100)]

    async def scenario() -> None:
        async with writing(disk) as writer:
            async with writer.busy():
                tasks = writer.begin(*map(created, names))
            await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert disk.batches == [["the first"], names]


def test_callers_that_push_on_share_a_batch_again(disk: Disk) -> None:
    async def push(writer: Writer, submission: str) -> None:
        for number in range(10):
            await writer.record(created(f"{submission} {number}"))
            for _ in range(5):  # an answer needs its time, to a submission and back
                await asyncio.sleep(0)

    async def scenario() -> None:
        async with writing(disk, batch_linger_seconds=0.5) as writer:
            with disk.busy():
                some = [asyncio.create_task(push(writer, f"a{number}")) for number in range(4)]
                await until(lambda: bool(disk.batches))
                others = [asyncio.create_task(push(writer, f"b{number}")) for number in range(4)]
                await asyncio.sleep(0)
            await asyncio.gather(*some, *others)

    asyncio.run(scenario())
    # The first push does not wait, because nobody pushed before.
    assert [len(batch) for batch in disk.batches] == [1, *[8] * 9, 7]


def test_an_answer_that_meets_a_bug_does_not_affect_the_others(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_result: Result) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        async with writing(disk) as writer:
            writer.recorder.submit(created("a"), broken)
            assert isinstance(await writer.record(created("b")), Tracked)
            assert isinstance(await writer.record(created("c")), Tracked)

    asyncio.run(scenario())
    assert [line.message for line in caplog.records] == ["an answer could not be sent"]


def test_each_interruption_of_a_large_batch_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    names = [str(number) for number in range(20)]
    store = open_store("sqlite:///:memory:", Rules()).store
    store.apply([created(name) for name in names], 0.0)

    async def scenario() -> None:
        recorder = Recorder(store, Metrics())
        for name in names:
            recorder.submit(interrupted(name), lambda _: None)
        recorder.close()
        await recorder.run()

    asyncio.run(scenario())
    store.close()
    records = [vars(record) for record in caplog.records if record.message == "interruption counted"]
    assert [line["instance"] for record in records for line in record["each"]] == names


def test_a_batch_is_bounded(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            async with writer.busy():
                tasks = writer.begin(*(created(f"n{number}") for number in range(1100)))
            await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert [len(batch) for batch in disk.batches] == [1, *[128] * 8, 76]


def test_an_event_sees_the_effects_of_earlier_events_in_its_batch(disk: Disk) -> None:
    async def scenario() -> list[Outcome]:
        async with writing(disk) as writer:
            async with writer.busy():
                tasks = writer.begin(created("a"), interrupted("a"), interrupted("a"), interrupted("a", "2"))
            return await asyncio.gather(*tasks)

    assert [type(outcome) for outcome in asyncio.run(scenario())] == [Tracked, Counted, Duplicate, Counted]


@pytest.mark.parametrize(
    "poisonous",
    [{"n0"}, {"n9"}, {"n3", "n4"}, {f"n{n}" for n in range(10)}],
    ids=lambda names: str(len(names)),
)
def test_only_events_that_meet_a_bug_fail_and_the_order_is_kept(
    disk: Disk, caplog: pytest.LogCaptureFixture, poisonous: set[str]
) -> None:
    names = [f"n{number}" for number in range(10)]
    disk.poisonous = poisonous

    async def scenario() -> list[Outcome | BaseException]:
        async with writing(disk) as writer:
            async with writer.busy():
                tasks = writer.begin(*map(created, names))
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            disk.poisonous = set()
            assert isinstance(await writer.record(created("after")), Tracked)
            return outcomes

    outcomes = dict(zip(names, asyncio.run(scenario()), strict=True))
    assert {name for name, outcome in outcomes.items() if isinstance(outcome, InternalError)} == poisonous
    assert {name for name, outcome in outcomes.items() if isinstance(outcome, Tracked)} == (
        set(names) - poisonous
    )
    passed = [name for batch in disk.batches if poisonous.isdisjoint(batch) for name in batch]
    assert passed == ["the first", *(name for name in names if name not in poisonous), "after"]
    assert len([line for line in caplog.records if line.levelno == logging.ERROR]) == len(poisonous)
    assert caplog.text.count("Traceback") == len(poisonous)


def test_an_event_is_answered_after_it_is_durable_and_in_the_metrics(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            await writer.record(created("a"))
            with disk.busy():
                (task,) = writer.begin(interrupted("a"))
                await until(lambda: len(disk.batches) == 2)
                assert not task.done()
                assert writer.shown() == "0.0"
            await task
            assert writer.shown() == "1.0"

    asyncio.run(scenario())


def test_events_fail_without_the_store_and_the_metrics_are_right_when_it_is_back(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            record = writer.record
            await record(created("a"))
            disk.loses_answers = True
            with pytest.raises(StoreUnavailableError):
                await record(interrupted("a"))
            assert writer.shown() == "0.0"

            disk.loses_answers, disk.away = False, True
            with pytest.raises(StoreUnavailableError):
                await record(interrupted("b"))

            disk.away = False
            await record(created("c"))
            assert writer.shown() == "1.0"

    asyncio.run(scenario())


def test_an_event_that_waits_too_long_is_refused_in_the_queue_and_in_the_commit(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk, commit_timeout_seconds=0.1) as writer:
            async with writer.busy():
                begun = asyncio.get_running_loop().time()
                (queued,) = writer.begin(created("a"))
                with pytest.raises(StoreSlowError):
                    await queued
                assert asyncio.get_running_loop().time() - begun >= 0.1
            assert await writer.record(created("the first")) == Duplicate()

    asyncio.run(scenario())
    assert disk.batches == [["the first"], ["the first"]]  # what was refused in the queue is not committed


def test_a_store_that_hangs_is_logged_once_until_it_continues(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    def hangs() -> int:
        return [line.message for line in caplog.records].count(
            "the store hangs; pushes are refused until it continues"
        )

    async def scenario() -> None:
        async with writing(disk, commit_timeout_seconds=0.1) as writer:
            for number in (1, 2):
                with disk.busy():
                    (hanging,) = writer.begin(created("a"))
                    await until(lambda: hangs() == number)  # noqa: B023 - it ends before the next
                    (later,) = writer.begin(created("b"))
                    with pytest.raises(StoreSlowError):
                        await later  # refused by a later look, which logs nothing
                    assert hangs() == number
                    with pytest.raises(StoreSlowError):
                        await hanging
                await writer.record(created("c"))

    asyncio.run(scenario())


def test_periodic_work_is_done_between_two_batches(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            async with writer.busy():
                work = asyncio.create_task(writer.recorder.perform(lambda store, now: store.expire(now)))
                tasks = writer.begin(*(created(f"n{number}") for number in range(129)))
            assert not (await work).counted
            assert sum(task.done() for task in tasks) == 0
            await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_events_that_waited_for_a_slice_have_the_store_for_a_while_before_the_next(disk: Disk) -> None:
    def slice_(_store: Store, _now: float) -> Applied:
        disk.write([created("slice")])
        return Applied()

    async def scenario() -> None:
        async with writing(disk, pause_seconds=3600) as writer:
            perform = writer.recorder.perform
            for _ in range(2):  # no event waits for the first
                await asyncio.wait_for(perform(slice_), 20)
            with disk.busy():
                slices = [asyncio.create_task(perform(slice_)) for _ in range(2)]
                await until(lambda: len(disk.batches) == 3)
                waiting = writer.begin(created("a"))
                await asyncio.sleep(0)
            await asyncio.gather(*waiting)
            for name in "bc":
                await writer.record(created(name))
            writer.recorder.close()  # the end does not wait
            await asyncio.gather(*slices)

    asyncio.run(scenario())
    assert disk.batches == [[name] for name in ("slice", "slice", "slice", "a", "b", "c", "slice")]


@pytest.mark.parametrize(("hurries", "share"), [(True, 4), (False, 99)])
def test_a_slice_without_hurry_leaves_nearly_all_the_time_to_events(
    disk: Disk, *, hurries: bool, share: int
) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            async with writer.busy():
                work = writer.recorder.perform(lambda store, now: store.expire(now), hurries=hurries)
                slice_ = asyncio.create_task(work)
                await asyncio.sleep(0)
                writer.begin(created("a"))
            await asyncio.wait_for(slice_, 20)
            assert writer.pause_shares == [share]

    asyncio.run(scenario())


def test_after_that_pause_the_next_slice_starts_without_another_event(disk: Disk) -> None:
    async def scenario() -> None:
        async with writing(disk, pause_seconds=0.01) as writer:
            perform = writer.recorder.perform
            async with writer.busy():
                slices = [asyncio.create_task(perform(lambda store, now: store.expire(now))) for _ in "12"]
                await asyncio.sleep(0)
                writer.begin(created("a"))
            await asyncio.wait_for(asyncio.gather(*slices), 20)

    asyncio.run(scenario())


def test_a_bug_in_periodic_work_is_logged_and_does_not_end_the_recorder(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with writing(disk) as writer:
            with pytest.raises(InternalError):
                await writer.recorder.perform(lambda _store, _now: 1 // 0)  # type: ignore[arg-type, return-value]
            assert isinstance(await writer.record(created("a")), Tracked)

    asyncio.run(scenario())
    assert "ZeroDivisionError" in caplog.text


def test_damage_found_while_running_is_logged_once_and_is_fatal(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(_store: Store, _now: float) -> Applied:
        raise StoreCorruptError("the file is damaged")

    async def scenario() -> None:
        async with writing(disk) as writer:
            assert not writer.recorder.fatal.is_set()
            with pytest.raises(StoreCorruptError):
                await writer.recorder.perform(damaged)
            assert writer.recorder.fatal.is_set()

    asyncio.run(scenario())
    assert [line.levelname for line in caplog.records] == ["ERROR"]


def test_a_commit_that_hangs_does_not_keep_the_recorder_from_its_end(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        store = disk.open("sqlite:///:memory:", Rules()).store
        recorder = Recorder(store, Metrics())
        running = asyncio.create_task(recorder.run())
        with disk.busy():
            commit, queued = (asyncio.create_task(record(recorder, created(name))) for name in ("a", "b"))
            await until(lambda: bool(disk.batches))
            recorder.close(0.1)
            await asyncio.wait_for(running, 60)
            assert not recorder.is_idle
            for task in (commit, queued):
                with pytest.raises(StoreSlowError):
                    await task

    asyncio.run(scenario())
    assert [line.levelname for line in caplog.records] == ["ERROR"]


def test_a_bug_of_the_writer_ends_it_and_answers_everybody(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        store = disk.open("sqlite:///:memory:", Rules()).store
        recorder = Recorder(store, Metrics())
        running = asyncio.create_task(recorder.run())
        with disk.busy():
            tasks = [asyncio.create_task(record(recorder, created(str(number)))) for number in range(3)]
            work = asyncio.create_task(recorder.perform(lambda store, now: store.expire(now)))
            await until(lambda: bool(disk.batches))
            monkeypatch.setattr(Metrics, "show", lambda *_: 1 // 0)
        for waiting in (*tasks, work):
            with pytest.raises(InternalError):
                await waiting
        with pytest.raises(ZeroDivisionError):
            await running
        with pytest.raises(StoppingError):
            await record(recorder, created("late"))

    asyncio.run(scenario())


def test_at_the_end_all_accepted_events_are_answered_and_new_ones_refused(disk: Disk) -> None:
    others = set(threading.enumerate())

    async def scenario() -> Recorder:
        async with writing(disk) as writer:
            async with writer.busy():
                tasks = writer.begin(*(created(f"n{number}") for number in range(129)))
                await asyncio.sleep(0)
                writer.recorder.close()
                with pytest.raises(StoppingError):
                    await writer.record(created("late"))
                with pytest.raises(StoppingError):
                    await writer.recorder.perform(lambda store, now: store.expire(now))
            assert {type(outcome) for outcome in await asyncio.gather(*tasks)} == {Tracked}
            return writer.recorder

    ended = asyncio.run(scenario())
    eventually(
        lambda: not any(thread.name == "store" for thread in {*threading.enumerate()} - others),
        within=20,
        what=f"the end of the thread of {ended}",
    )


def test_a_counted_interruption_is_one_line_with_its_attribution(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with writing(disk) as writer:
            for event in (interrupted("a"), interrupted("a"), created("a"), interrupted("a", "2")):
                await writer.record(event)

    asyncio.run(scenario())
    records = [vars(record) for record in caplog.records if record.message == "interruption counted"]
    lines = [line for record in records for line in record["each"]]
    expected = {
        "project": "shop-prod",
        "kubernetes_cluster": "tills",
        "cluster_location": "europe-west1",
        "node_pool": "spot",
        "zone": "europe-west1-c",
        "machine_type": "e2-standard-8",
        "instance": "a",
        "instance_id": "a",
        "interrupted_at": "1970-01-01T00:03:20.000Z",
        "counted_as": "tills",
        "found_by": "push",
    }
    assert lines == [
        {**expected, "age_seconds": 100.0, "released_by": "creation"},
        {**expected, "age_seconds": None, "released_by": None},
    ]
