"""The parent's side of a listing: the real child against a local Compute API, in uvloop as in production."""

import asyncio
import gc
import json
import os
import signal
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from app.domain.events import UNKNOWN, InstanceName, Listed, Node
from app.errors import InventoryUnavailableError
from app.gcp.listing import FAILURES, Part, Progress, Slice, Summary, list_fleet, listed_of
from tests.support.compute_api import (
    BACKEND_ERROR,
    FORBIDDEN,
    ComputeApi,
    FakeInstance,
    Hold,
    ManyInstances,
    node_labels,
)
from tests.support.process import LOOPBACK, eventually

T = TypeVar("T")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)


@pytest.fixture(scope="module", autouse=True)
def first_loop() -> None:
    """The first one of a process opens what stays open."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    """The local API; when it has ended too, no pipe of a child's may be open."""
    before = descriptors()
    with ComputeApi() as api:
        yield api
    gc.collect()
    eventually(lambda: descriptors() <= before, within=5, what="the end of all pipes")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it to its end; nothing may be left behind: no child, no task."""
    troubles: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
        try:
            return await coroutine
        finally:
            # Reaped too: a zombie is still a child.
            assert not children()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(watched())
    assert not troubles
    return result


def descriptors() -> int:
    """How many files, pipes and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - some are gone before they could be looked at


def children() -> list[int]:
    """The process ids of listings that this process has started, zombies included."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended has none
            found += map(int, (thread / "children").read_text().split())
    return found


def listing(
    api: ComputeApi,
    project: str = "shop",
    *,
    deadline_seconds: float = 300,
    slice_size: int = 500,
    page_seconds: float = 60,
    pages: int = 0,
) -> AsyncGenerator[Part, None]:
    return list_fleet(
        project,
        endpoint=api.url,
        deadline_seconds=deadline_seconds,
        slice_size=slice_size,
        page_seconds=page_seconds,
        pages=pages,
    )


async def all_of(parts: AsyncGenerator[Part, None]) -> list[Part]:
    async with aclosing(parts):
        return [part async for part in parts]


def lines_of(parts: Sequence[Part]) -> list[bytes]:
    return [line for part in parts if isinstance(part, Slice) for line in part.lines]


def test_a_fleet_comes_in_slices_and_then_its_summary(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(1250)

    *slices, summary = run(all_of(listing(api, slice_size=500)))

    assert [len(part.lines) for part in slices if isinstance(part, Slice)] == [500, 500, 250]
    assert isinstance(summary, Summary)
    assert summary.complete
    assert (summary.pages, summary.instances, summary.unfit) == (3, 1250, 0)
    assert (summary.reason, summary.message, summary.failed_zones) == ("", "", frozenset())
    assert 20 < summary.peak_rss_mib < 200
    listed = listed_of("shop", lines_of(slices))
    assert sorted(instance.name.instance for instance in listed) == sorted(f"node-{n}" for n in range(1250))


def test_slices_are_no_larger_than_asked_for(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(25)

    *slices, _ = run(all_of(listing(api, slice_size=10)))

    assert [len(part.lines) for part in slices if isinstance(part, Slice)] == [10, 10, 5]


def test_what_is_told_of_each_instance() -> None:
    lines = [
        b'["z-a","node","7",true,"tills","us","pool","e2",true,"RUNNING",100.5,200.5]',
        b'["z-b","bare","8",true,null,null,null,null,false,"TERMINATED",null,null]',
        b'["z-b","vm","9",false,null,null,null,null,true,null,null,null]',
    ]
    tills = Node("tills", "us", "pool", "e2")
    bare = Node(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)

    assert listed_of("shop", lines) == [
        Listed(
            InstanceName("shop", "z-a", "node"),
            "7",
            tills,
            spot=True,
            alive=True,
            created_at=100.5,
            started_at=200.5,
        ),
        Listed(
            InstanceName("shop", "z-b", "bare"),
            "8",
            bare,
            spot=False,
            alive=False,
            created_at=None,
            started_at=None,
        ),
        Listed(
            InstanceName("shop", "z-b", "vm"),
            "9",
            None,
            spot=True,
            alive=False,
            created_at=None,
            started_at=None,
        ),
    ]


@pytest.mark.parametrize(
    ("status", "alive"),
    [
        *((status, True) for status in ("PROVISIONING", "STAGING", "RUNNING", "REPAIRING")),
        *(
            (status, False)
            for status in ("STOPPING", "TERMINATED", "SUSPENDING", "SUSPENDED", "PENDING_STOP")
        ),
    ],
)
def test_which_states_live(status: str, alive: bool) -> None:  # noqa: FBT001 - a column of the table
    line = f'["z","node","7",true,"tills","us","pool","e2",true,"{status}",1,2]'.encode()

    assert listed_of("shop", [line])[0].alive is alive


def test_a_retry_is_told_with_its_reason(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(BACKEND_ERROR, page=2)

    parts = run(all_of(listing(api)))

    # What was read before is handed on first: a retry takes its time. A slow machine reports progress too.
    parts = [part for part in parts if not isinstance(part, Progress) or part.retrying]
    assert [type(part) for part in parts] == [Slice, Progress, Slice, Summary]
    retry = parts[1]
    assert isinstance(retry, Progress)
    assert (retry.retrying, retry.pages, retry.instances) == ("unavailable", 1, 500)
    assert retry.seconds > 0


def test_a_failure_is_in_the_summary(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(FORBIDDEN, page=2)

    parts = run(all_of(listing(api)))

    assert isinstance(parts[-1], Summary)
    assert not parts[-1].complete
    assert parts[-1].reason == "forbidden"
    assert "compute.instances.list" in parts[-1].message
    assert parts[-1].reason in FAILURES
    assert len(lines_of(parts)) == 500


def test_zones_that_were_not_reached_are_named(api: ComputeApi) -> None:
    api.projects["shop"] = [FakeInstance("node", labels=node_labels("tills"))]
    api.unreachables["shop"] = ["projects/shop/zones/us-east1-c"]

    *_, summary = run(all_of(listing(api)))

    assert isinstance(summary, Summary)
    assert summary.complete
    assert summary.failed_zones == {"us-east1-c"}


def test_pages_left_unread_are_no_failure_and_not_complete(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(1250)

    *_, summary = run(all_of(listing(api, pages=1)))

    assert isinstance(summary, Summary)
    assert not summary.complete
    assert (summary.reason, summary.pages, summary.instances) == ("", 1, 500)


# Cut off


async def begun(api: ComputeApi) -> tuple[AsyncGenerator[Part, None], list[bytes]]:
    """A listing whose first page has come, and whose second does not."""
    api.projects["shop"] = ManyInstances(1250)
    api.fail(Hold(), page=2)
    parts = listing(api, slice_size=10)
    first = await anext(parts)
    assert isinstance(first, Slice)
    return parts, list(first.lines)


async def read_into(lines: list[bytes], parts: AsyncGenerator[Part, None]) -> None:
    async for part in parts:
        lines += lines_of([part])


def test_a_child_that_is_killed_is_cut_off_and_what_came_before_is_not_lost(api: ComputeApi) -> None:
    async def killed() -> list[bytes]:
        parts, lines = await begun(api)
        async with aclosing(parts):
            (child,) = children()
            os.kill(child, signal.SIGKILL)
            with pytest.raises(InventoryUnavailableError, match=r"without its summary: signal 9") as caught:
                await read_into(lines, parts)
        assert caught.value.cause == "cut_off"
        assert caught.value.cause in FAILURES
        return lines

    # It was killed while it wrote, or after: lines that were cut off are none.
    assert 10 <= len(listed_of("shop", run(killed()))) <= 500


def test_a_child_that_cannot_work_says_why(
    api: ComputeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "google.py").write_text("raise ImportError('no such library here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(
        InventoryUnavailableError, match=r"exit code 1: ImportError: no such library"
    ) as caught:
        run(all_of(listing(api)))

    assert caught.value.cause == "cut_off"
    # The whole trace in one line of the log, and nothing of it on our own stderr.
    (record,) = caplog.records
    assert "Traceback" in vars(record)["said"]


def test_where_no_process_can_be_started_it_fails_plainly(
    api: ComputeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")

    with pytest.raises(InventoryUnavailableError, match="cannot be started: No such file") as caught:
        run(all_of(listing(api)))

    assert caught.value.cause == "other"


def test_at_the_deadline_the_child_is_killed(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(Hold(), page=2)

    with pytest.raises(InventoryUnavailableError, match=r"longer than 1\.5 s") as caught:
        run(all_of(listing(api, deadline_seconds=1.5)))

    assert caught.value.cause == "deadline"
    assert caught.value.cause in FAILURES


def test_a_deadline_during_the_consumers_work_does_not_cancel_that(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(Hold(), page=2)

    async def slow(deadline_seconds: float) -> str:
        async with aclosing(listing(api, deadline_seconds=deadline_seconds)) as parts:
            try:
                await anext(parts)
            except InventoryUnavailableError as early:
                if early.cause != "deadline":
                    raise
                # A slow machine's child has not come so far by then.
                return await slow(deadline_seconds * 4)
            await asyncio.sleep(deadline_seconds)
            with pytest.raises(InventoryUnavailableError) as caught:
                await anext(parts)
        return caught.value.cause

    assert run(slow(1)) == "deadline"


# The child does not outlive the iteration


def test_ended_early_it_leaves_nothing(api: ComputeApi) -> None:
    async def one_part() -> None:
        parts, _ = await begun(api)
        async with aclosing(parts):
            assert children()

    run(one_part())


def test_ended_while_much_is_unread_it_leaves_nothing(api: ComputeApi) -> None:
    # Both ends of the pipe are full then: nobody reads, and the child waits in its write.
    api.projects["shop"] = ManyInstances(50_000)

    async def one_part() -> None:
        async with aclosing(listing(api)) as parts:
            await anext(parts)
            asked = 0
            while asked < len(api.requests):
                asked = len(api.requests)
                await asyncio.sleep(0.5)
            assert asked < 50

    run(one_part())


@pytest.mark.parametrize("when", ["starting", "reading", "consuming"])
def test_cancelled_it_leaves_nothing(api: ComputeApi, when: str) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(Hold(), page=2)
    consuming = asyncio.Event()

    async def consume() -> None:
        async with aclosing(listing(api)) as parts:
            async for _ in parts:
                consuming.set()
                if when == "consuming":
                    await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.create_task(consume())
        if when == "starting":
            await asyncio.sleep(0)
        else:
            await consuming.wait()
        if when == "reading":
            await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled())


def test_it_is_gone_when_its_parent_is_killed(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    hold = Hold()
    api.fail(hold, page=2)
    parent = os.fork()
    if parent == 0:
        # Not back into pytest, whatever happens.
        try:
            asyncio.run(all_of(listing(api)))
        finally:
            os._exit(0)
    try:
        child = eventually(lambda: first_child(parent), within=20, what="the child")
        eventually(lambda: len(api.requests) >= 2, within=20, what="the second page's request")
    finally:
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
    eventually(lambda: not Path(f"/proc/{child}").exists(), within=5, what="the end of the child")


def first_child(parent: int) -> int:
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(pids[0]) if pids else 0


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        ("unknown", "cluster:unknown"),
        ("other", "cluster:other"),
        ("tills", "tills"),
        (None, UNKNOWN),
    ],
)
def test_a_listed_cluster_with_a_reserved_name_is_told_apart(named: str | None, shown: str) -> None:
    told = ["us-east1-b", "node", "1", True, named, None, None, None, True, "RUNNING", 1.0, 1.0]

    (listed,) = listed_of("shop-prod", [json.dumps(told).encode()])

    assert listed.node == Node(shown, UNKNOWN, UNKNOWN, UNKNOWN)
