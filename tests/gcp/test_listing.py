"""The listing of a fleet by the real child process from a local Compute API, in uvloop as in production."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from app.errors import InventoryUnavailableError
from app.gcp.instances import parse_instances
from app.gcp.listing import FAILURES, Lines, Part, Progress, Summary, _Child, read_project
from tests.support.children import children, ignore_present_children
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
def frozen_heap() -> Iterator[None]:
    """Leave everything that exists now out of the collections, which then take milliseconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def first_loop() -> None:
    """Run one loop first: the first loop of a process opens files that stay open."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    """The local API. After its end, no pipe of a child may be open."""
    before = descriptors()
    with ComputeApi() as api:
        yield api
    gc.collect()
    eventually(lambda: descriptors() <= before, within=5, what="the end of all pipes")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; no child and no task may be left."""
    errors: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, error: errors.append(error))
        try:
            return await coroutine
        finally:
            # Reaped too, because a zombie is still a child.
            assert not children()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(watched())
    assert not errors
    return result


def descriptors() -> int:
    """Return the number of files, pipes and sockets that this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - some are gone before they could be inspected


@pytest.fixture(autouse=True)
def _only_own_children() -> None:
    ignore_present_children()


def listing(
    api: ComputeApi,
    project: str = "shop",
    *,
    deadline_seconds: float = 300,
    max_lines: int = 500,
    page_seconds: float = 60,
    pages: int = 0,
) -> AsyncGenerator[Part, None]:
    return read_project(
        project,
        "instances",
        endpoint=api.url,
        deadline_seconds=deadline_seconds,
        max_lines=max_lines,
        page_seconds=page_seconds,
        pages=pages,
    )


async def all_of(parts: AsyncGenerator[Part, None]) -> list[Part]:
    async with aclosing(parts):
        return [part async for part in parts]


def lines_of(parts: Sequence[Part]) -> list[bytes]:
    return [line for part in parts if isinstance(part, Lines) for line in part.lines]


@pytest.mark.usefixtures("quick_children")
def test_a_listing_is_parts_of_lines_and_then_a_summary(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(1250)

    *parts, summary = run(all_of(listing(api, max_lines=500)))

    assert [len(part.lines) for part in parts if isinstance(part, Lines)] == [500, 500, 250]
    assert isinstance(summary, Summary)
    assert summary.complete
    assert (summary.pages, summary.entries, summary.invalid) == (3, 1250, 0)
    assert (summary.reason, summary.message, summary.failed_zones) == ("", "", frozenset())
    assert 20 < summary.peak_rss_mib < 200
    listed = parse_instances("shop", lines_of(parts))
    assert sorted(instance.name.instance for instance in listed) == sorted(f"node-{n}" for n in range(1250))


@pytest.mark.usefixtures("quick_children")
def test_a_part_has_no_more_lines_than_its_limit(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(25)

    *parts, _ = run(all_of(listing(api, max_lines=10)))

    assert [len(part.lines) for part in parts if isinstance(part, Lines)] == [10, 10, 5]


@pytest.mark.usefixtures("quick_children")
def test_a_retry_is_reported_with_its_reason(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(BACKEND_ERROR, page=2)

    parts = run(all_of(listing(api)))

    # Earlier lines are yielded before the retry, which takes time. Slow machines report other progress too.
    parts = [part for part in parts if not isinstance(part, Progress) or part.retrying]
    assert [type(part) for part in parts] == [Lines, Progress, Lines, Summary]
    retry = parts[1]
    assert isinstance(retry, Progress)
    assert (retry.retrying, retry.pages, retry.entries) == ("unavailable", 1, 500)
    assert retry.seconds > 0


@pytest.mark.usefixtures("quick_children")
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


@pytest.mark.usefixtures("quick_children")
def test_unreachable_zones_are_in_the_summary(api: ComputeApi) -> None:
    api.projects["shop"] = [FakeInstance("node", labels=node_labels("tills"))]
    api.unreachables["shop"] = ["projects/shop/zones/us-east1-c"]

    *_, summary = run(all_of(listing(api)))

    assert isinstance(summary, Summary)
    assert summary.complete
    assert summary.failed_zones == {"us-east1-c"}


@pytest.mark.usefixtures("quick_children")
def test_a_listing_of_some_pages_is_not_complete_and_not_failed(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(1250)

    *_, summary = run(all_of(listing(api, pages=1)))

    assert isinstance(summary, Summary)
    assert not summary.complete
    assert (summary.reason, summary.pages, summary.entries) == ("", 1, 500)


# Cut off


async def begun(api: ComputeApi) -> tuple[AsyncGenerator[Part, None], list[bytes]]:
    """Return a listing after its first page, and the lines of that page. The second page is held."""
    api.projects["shop"] = ManyInstances(1250)
    api.fail(Hold(), page=2)
    parts = listing(api, max_lines=10)
    first = await anext(parts)
    assert isinstance(first, Lines)
    return parts, list(first.lines)


async def read_into(lines: list[bytes], parts: AsyncGenerator[Part, None]) -> None:
    async for part in parts:
        lines += lines_of([part])


def test_the_lines_before_a_childs_kill_are_yielded_and_the_listing_is_cut_off(api: ComputeApi) -> None:
    async def killed() -> list[bytes]:
        parts, lines = await begun(api)
        async with aclosing(parts):
            (child,) = children()
            os.kill(child, signal.SIGKILL)
            with pytest.raises(InventoryUnavailableError, match=r"ended too early: signal 9") as caught:
                await read_into(lines, parts)
        assert caught.value.reason == "cut_off"
        assert caught.value.reason in FAILURES
        return lines

    # The child was killed during a write or after it. A line that was cut off is left out.
    assert 10 <= len(parse_instances("shop", run(killed()))) <= 500


def test_a_cancellation_while_the_child_is_ended_leaves_no_child_and_no_pipe(api: ComputeApi) -> None:
    async def cancelled() -> None:
        parts, _ = await begun(api)
        ending = asyncio.create_task(all_of(parts))
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.sleep(0)  # the child is killed now, and its pipes are read to their ends
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()

    run(cancelled())


def test_a_child_that_has_ended_by_itself_is_reaped_once(
    api: ComputeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    end, reap = _Child.end, asyncio.ThreadedChildWatcher._do_waitpid  # type: ignore[attr-defined]  # noqa: SLF001
    is_ending = threading.Event()

    async def end_late(child: _Child) -> None:
        await asyncio.to_thread(os.waitid, os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
        asyncio.get_running_loop().call_soon(is_ending.set)  # as soon as `end` waits
        await end(child)

    def reap_late(*arguments: object) -> None:
        is_ending.wait()
        reap(*arguments)

    monkeypatch.setattr(_Child, "end", end_late)
    monkeypatch.setattr(asyncio.ThreadedChildWatcher, "_do_waitpid", reap_late)

    # In the loop of the command `check`, whose child watcher is a thread.
    assert isinstance(asyncio.run(all_of(listing(api)))[-1], Summary)
    assert caplog.messages == []


def test_the_last_line_of_a_failed_childs_stderr_is_in_the_error(
    api: ComputeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "google.py").write_text("raise ImportError('no such library here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(
        InventoryUnavailableError, match=r"exit code 1: ImportError: no such library"
    ) as caught:
        run(all_of(listing(api)))

    assert caught.value.reason == "cut_off"
    # The whole trace is in one line of the log.
    (record,) = caplog.records
    assert record.getMessage() == "the process that reads from Compute Engine wrote to stderr"
    assert "Traceback" in vars(record)["stderr"]


def test_a_listing_whose_process_cannot_be_started_fails_with_the_reason(
    api: ComputeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")

    with pytest.raises(InventoryUnavailableError, match="cannot be started: No such file") as caught:
        run(all_of(listing(api)))

    assert caught.value.reason == "other"


def test_at_the_deadline_the_child_is_killed(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(Hold(), page=2)

    with pytest.raises(InventoryUnavailableError, match=r"longer than 0\.5 s") as caught:
        run(all_of(listing(api, deadline_seconds=0.5)))

    assert caught.value.reason == "deadline"
    assert caught.value.reason in FAILURES


@pytest.mark.usefixtures("quick_children")
def test_a_deadline_during_the_consumers_work_does_not_cancel_the_consumer(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    api.fail(Hold(), page=2)

    async def slow(deadline_seconds: float) -> str:
        loop = asyncio.get_running_loop()
        over = loop.time() + deadline_seconds + 0.1
        async with aclosing(listing(api, deadline_seconds=deadline_seconds)) as parts:
            try:
                await anext(parts)
            except InventoryUnavailableError as early:
                if early.reason != "deadline":
                    raise
                # On a slow machine, the first page can come after the deadline.
                return await slow(deadline_seconds * 4)
            await asyncio.sleep(over - loop.time())
            with pytest.raises(InventoryUnavailableError) as caught:
                await anext(parts)
        return caught.value.reason

    assert run(slow(2)) == "deadline"


# The child does not outlive the iteration


def test_a_listing_that_is_closed_early_leaves_nothing(api: ComputeApi) -> None:
    async def one_part() -> None:
        parts, _ = await begun(api)
        async with aclosing(parts):
            assert children()

    run(one_part())


def test_a_listing_that_is_closed_with_a_full_pipe_leaves_nothing(api: ComputeApi) -> None:
    # The pipe is full because the test does not read, and the child waits in its write.
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
def test_a_listing_that_is_cancelled_leaves_nothing(api: ComputeApi, when: str) -> None:
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


def test_the_child_ends_when_its_parent_is_killed(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(600)
    hold = Hold()
    api.fail(hold, page=2)
    parent = os.fork()
    if parent == 0:
        # The fork must never return into pytest.
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
    eventually(lambda: has_ended(child), within=5, what="the end of the child")


def has_ended(process: int) -> bool:
    # Nobody may have waited for it yet: another test can have had this process adopt orphans.
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith("Z")
    return True


def first_child(parent: int) -> int:
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(pids[0]) if pids else 0
