"""One fault after the other while events come; in the end each event is counted exactly once.

`python -m tests.chaos.faults [--only NAME] [--seed 1]`: a line a fault, and exit code 1 where one does harm.
"""

import argparse
import asyncio
import base64
import json
import random
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Self

from app.demo.issuer import Issuer, IssuerServer
from tests.chaos.crowd import Crowd, files_for
from tests.chaos.kills import port_of, running, say
from tests.chaos.lives import lives
from tests.chaos.pushes import Pushes, Wire
from tests.chaos.sigterm import Farewell
from tests.chaos.traffic import Labels, Message, Traffic
from tests.chaos.verdict import COUNTERS, differences, in_ledger, ledger
from tests.support.entries import insert, made_id
from tests.support.exporter import Exporter as InThread
from tests.support.ledgers import remember
from tests.support.process import ExitedError, eventually
from tests.support.program import ACCOUNT, AUDIENCE, Door, Exporter, Samples, body_of, open_door

if TYPE_CHECKING:
    from concurrent.futures import Future

_HOUR: Final = 3600.0
_TOKENS: Final = 50
"""Others all the time: a token that was verified before needs no certificate."""
_PAGE: Final = 4096


class HarmError(Exception):
    """A fault did what it must not do."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    interruptions: int
    slow: int
    idle: int
    seconds: float
    """How long normal traffic is looked at, alone and beside a crowd."""


FULL: Final = Size(interruptions=3_000, slow=1_000, idle=10_000, seconds=25)
SHORT: Final = Size(interruptions=300, slow=50, idle=200, seconds=2)


def main() -> None:
    """Have every fault happen, or one, and print what was seen."""
    options = _options()
    failed = [name for name in options.only or FAULTS if not _seen(name, options.seed)]
    say(f"harm done by {', '.join(failed)}" if failed else "no harm done")
    sys.exit(bool(failed))


def _seen(name: str, seed: int) -> bool:
    began = time.monotonic()
    try:
        with TemporaryDirectory() as folder:
            figures = FAULTS[name](Path(folder), FULL, seed)
    except (HarmError, ExitedError, TimeoutError) as exc:
        say(f"FAIL  {name}: {exc}")
        return False
    say(f"ok    {name} ({time.monotonic() - began:.0f} s): {figures}")
    return True


def full_disk(directory: Path, size: Size, seed: int) -> str:
    """No file may grow for a while; everything is refused, and taken when there is room again."""
    with Exporter(directory) as exporter, _Load(exporter, size, seed) as load:
        load.wait(0.25)
        pid = exporter.process.pid
        # To a process that may write no file beyond its first page, every disk is full.
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (_PAGE, resource.RLIM_INFINITY))
        refused = load.wait_for_refusals("503 store_unavailable", 100)
        _demand(exporter.status("/healthz") == 200, "it says that it is ill")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        back = time.monotonic()
        before = load.pushes.acknowledged
        eventually(lambda: load.pushes.acknowledged > before, within=5, what="a push is taken")
        took = time.monotonic() - back
        load.finish()
        _demand(exporter.process.pid == pid, "it was started anew")
        return (
            f"{refused} refused meanwhile, the next taken {took:.2f} s after there was room; {load.exact()}"
        )


def read_only(directory: Path, size: Size, seed: int) -> str:
    """The file may not be written any more: who has it open goes on, who starts anew ends and says why."""
    if (setpriv := shutil.which("setpriv")) is None:
        raise HarmError("this needs setpriv of util-linux")
    exporter = Exporter(directory)
    # So that permissions bind root too.
    dropped = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    exporter.process.command = [*dropped, *exporter.process.command]
    with exporter, _Load(exporter, size, seed) as load:
        load.wait(0.2)
        for file in directory.glob("exporter.db*"):
            file.chmod(0o400)
        load.wait(0.4)
        exporter.process.kill()
        before = exporter.store.read_bytes()
        told = ""
        try:
            exporter.process.start()
        except ExitedError as exc:
            told = str(exc)
        _demand("ended with status 1" in told, f"it has started, or ended in another way: {told[-300:]}")
        _demand(str(exporter.store) in told.splitlines()[-1], f"it does not name its file: {told[-300:]}")
        _demand(exporter.store.read_bytes() == before, "it has changed the file")
        for file in directory.glob("exporter.db*"):
            file.chmod(0o600)
        exporter.process.start()
        load.finish()
        return f"exit 1 with {told.splitlines()[-1].split(': ', 1)[-1]!r}; {load.exact()}"


def damaged(directory: Path, size: Size, seed: int) -> str:
    """The file is overwritten under a running exporter, which ends; the next begins a new one, exactly."""
    # Larger than what SQLite keeps in memory: else nobody reads the file before the next start.
    remember(directory, time.time(), interruptions=5 * size.interruptions, pools=10)
    with Exporter(directory) as exporter:
        with _Load(exporter, size, seed) as load:
            load.wait(0.3)
            status = _overwrite_until_it_ends(exporter)
            load.give_up()
        exporter.process.start()
        aside = [file.name for file in directory.glob("*.damaged-*")]
        _demand(bool(aside), "the damaged file was not kept")
        resets = exporter.value("spot_interruption_exporter_store_resets_total")
        _demand(resets == 1, f"store_resets_total is {resets}")
        # Everything once more, as from a subscription that was set back to before the damage.
        with _Load(exporter, size, seed) as load:
            load.finish()
            how = f"ended with {status} by itself" if status is not None else "noticed at the next start"
            return f"{how}, {len(aside)} files moved aside; {load.exact()}"


def clock_back(directory: Path, size: Size, seed: int) -> str:
    """The clock goes back by an hour under load, and later forth again; no counter does."""
    skew = 0.0
    went_down: list[str] = []
    shown: Samples = {}

    with InThread(
        directory, {"pubsub.authentication": "none"}, two_listeners=True, clock=lambda: time.time() + skew
    ) as exporter:

        def look() -> None:
            nonlocal shown
            recorder = exporter.parts.recorder
            exporter.perform(recorder.perform(lambda store, now: store.account(now))).result(20)
            now = exporter.exposition()
            went_down.extend(
                f"{name} {dict(labels)}: {before:g} to {now.get((name, labels), 0):g}"
                for (name, labels), before in shown.items()
                if name in COUNTERS and now.get((name, labels), 0) < before
            )
            shown = now

        made = _made(size, seed)
        pushes = Pushes(exporter.ports[0], made.messages, seed=seed)
        with running(pushes) as done:
            for share, skew in ((0.3, -_HOUR), (0.6, 0.0), (0.8, -_HOUR)):  # noqa: B007
                _wait(pushes, len(made.messages) * share, done)
                look()
        look()
        wrong = [
            *went_down,
            *differences(made, lambda name: _by_name(exporter.exposition(), name)),
            *in_ledger(made, exporter.client, exporter.metrics_url),
        ]
        _demand(not wrong, "; ".join(wrong[:5]))
        return f"{pushes.acknowledged} messages, three steps; exact"


def sigterm(directory: Path, size: Size, seed: int) -> str:
    """Everybody gets a whole answer or none at all; the ledger has what was acknowledged, no more."""
    with open_door() as door, Exporter(directory, door) as exporter:
        creations, interruptions = _halves(_made(size, seed))
        with running(Pushes(port_of(exporter), creations, token=lambda: door.token, hasty=0)):
            pass
        farewell = Farewell(exporter, interruptions, door.token)
        asyncio.run(farewell.run())
        stopping = time.monotonic()
        status = exporter.process.wait(within=15)
        took = time.monotonic() - stopping
        exporter.process.start()
        rows = ledger(exporter.client, f"http://{exporter.metrics_address}")
        acknowledged = {_identity(message) for message in farewell.acknowledged}
        cut_off = {_identity(message) for message in farewell.cut_off}
        _demand(status == 0, f"exit {status}")
        _demand(not farewell.wrong, f"answers: {dict(farewell.wrong)}")
        _demand(acknowledged <= rows.keys(), f"{len(acknowledged - rows.keys())} acknowledged and not kept")
        silent = (cut_off & rows.keys()) - acknowledged
        _demand(not silent, f"{len(silent)} kept and not answered")
        return (
            f"{len(farewell.acknowledged)} acknowledged, refused {dict(farewell.refused)},"
            f" {len(farewell.cut_off)} connections not taken any more, none of their events kept;"
            f" exit 0 after {took:.1f} s"
        )


def certificates_down(directory: Path, size: Size, seed: int) -> str:
    """The endpoint answers 503: known keys go on, and who starts anew refuses until it is back."""

    def broken(server: IssuerServer) -> None:
        server.status = HTTPStatus.SERVICE_UNAVAILABLE

    def mended(server: IssuerServer) -> None:
        server.status = HTTPStatus.OK

    return _without_certificates(directory, size, seed, broken, mended)


def certificates_slow(directory: Path, size: Size, seed: int) -> str:
    """The endpoint does not answer: nobody whose key is known waits for it."""
    return _without_certificates(directory, size, seed, IssuerServer.hold, IssuerServer.release)


def certificates_rubbish(directory: Path, size: Size, seed: int) -> str:
    """The endpoint answers with something else."""

    def broken(server: IssuerServer) -> None:
        server.body = b"<html>tea, biscuits</html>" * 100

    def mended(server: IssuerServer) -> None:
        server.body = None

    return _without_certificates(directory, size, seed, broken, mended)


def certificates_rotating(directory: Path, size: Size, seed: int) -> str:
    """Three new keys under load, the first gone in the end: every token of the time is taken at once."""
    with _rotating() as keys, Exporter(directory, keys.door) as exporter:
        with _Load(exporter, size, seed, token=keys.token) as load:
            for share in (0.25, 0.5, 0.75):
                load.wait(share)
                keys.rotate(keep=share < 0.75)
        refused = {reason: count for reason, count in load.pushes.repeated.items() if reason[:1].isdecimal()}
        _demand(not refused, f"refused: {refused}")
        return f"{keys.server.fetches} fetches, nobody refused; {load.exact()}"


def crowd(directory: Path, size: Size, seed: int) -> str:
    """Slow clients and idle connections beside normal traffic, which goes on."""
    idle = files_for(size.slow + size.idle) - size.slow
    with open_door() as door, Exporter(directory, door) as exporter:
        normal = _Normal(exporter, door, seed)
        people = Crowd(port_of(exporter), slow=size.slow, idle=idle, token=door.token)

        async def compared() -> tuple[list[float], list[float], int]:
            alone = await normal.latencies(size.seconds)
            async with people.present():
                beside = await normal.latencies(size.seconds)
                return alone, beside, _resident_mib(exporter.process.pid)

        before = _resident_mib(exporter.process.pid)
        alone, beside, during = asyncio.run(compared())
        eventually(lambda: exporter.status("/healthz") == 200, within=5, what="it is healthy")
        again = asyncio.run(normal.latencies(size.seconds / 4))
        _demand(not normal.failed, f"{len(normal.failed)} normal pushes failed: {set(normal.failed)}")
        return (
            f"{size.slow} slow, {idle} idle; {normal.per_second} pushes/s p50/p99 in ms:"
            f" alone {_percentiles(alone)}, beside {_percentiles(beside)}, afterwards {_percentiles(again)};"
            f" resident {before} MiB, then {during}, then {_resident_mib(exporter.process.pid)};"
            f" slow ones were answered {dict(people.ended)}"
        )


FAULTS: Final[Mapping[str, Callable[[Path, Size, int], str]]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        full_disk,
        read_only,
        damaged,
        clock_back,
        sigterm,
        certificates_down,
        certificates_slow,
        certificates_rubbish,
        certificates_rotating,
        crowd,
    )
}


class _Load:
    """Deliveries to an exporter; the `with` block ends once all are acknowledged, or after `give_up`."""

    def __init__(self, exporter: Exporter, size: Size, seed: int, *, token: Callable[[], str] = str) -> None:
        self.exporter = exporter
        self.made = _made(size, seed)
        self.pushes = Pushes(port_of(exporter), self.made.messages, token=token, seed=seed)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._done = self._stack.enter_context(running(self.pushes))
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            self.give_up()
        self._stack.close()

    def wait(self, share: float) -> None:
        """Until such a part is acknowledged."""
        _wait(self.pushes, len(self.made.messages) * share, self._done)

    def wait_for_refusals(self, reason: str, count: int) -> int:
        """Until so many more have met this; how many then have."""
        repeated = self.pushes.repeated
        before = repeated[reason]
        eventually(lambda: repeated[reason] >= before + count, within=30, what=f"{count} times {reason}")
        return repeated[reason] - before

    def finish(self) -> None:
        """Until everything is acknowledged."""
        eventually(self._done.done, within=300, what="everything is acknowledged")

    def give_up(self) -> None:
        """Deliver no more."""
        self.pushes.stopped = True

    def exact(self) -> str:
        """How many messages it were. Raises HarmError where anything is not as it was sent."""
        exporter = self.exporter
        wrong = [
            *differences(self.made, lambda name: _by_name(exporter.samples(), name)),
            *in_ledger(self.made, exporter.client, f"http://{exporter.metrics_address}"),
        ]
        _demand(not wrong, "; ".join(wrong[:5]))
        return f"{self.pushes.acknowledged} messages, exact"


class _Keys:
    """An issuer that rotates, and tokens of its present key."""

    def __init__(self, issuer: Issuer, server: IssuerServer) -> None:
        self.server = server
        self._issuer = issuer
        self._tokens: list[str] = []
        self._chance = random.Random(1)  # noqa: S311
        self._make()

    @property
    def door(self) -> Door:
        return Door(self.server, self.token())

    def token(self) -> str:
        return self._chance.choice(self._tokens)

    def rotate(self, *, keep: bool = True) -> None:
        self._issuer.rotate(keep=keep)
        self._make()

    def others(self) -> None:
        """Tokens that nobody has seen, of the same key."""
        self._make()

    def _make(self) -> None:
        tokens = (
            self._issuer.token(audience=AUDIENCE, email=ACCOUNT, jti=self._chance.random())
            for _ in range(_TOKENS)
        )
        self._tokens = list(tokens)


@contextmanager
def _rotating() -> Iterator[_Keys]:
    issuer = Issuer()
    with IssuerServer(issuer) as server:
        yield _Keys(issuer, server)


def _without_certificates(
    directory: Path,
    size: Size,
    seed: int,
    broken: Callable[[IssuerServer], None],
    mended: Callable[[IssuerServer], None],
) -> str:
    with _rotating() as keys:
        exporter = Exporter(directory, keys.door)
        with exporter, _Load(exporter, size, seed, token=keys.token) as load:
            load.wait(0.3)
            broken(keys.server)
            keys.others()
            load.wait(0.6)
            refused = [reason for reason in load.pushes.repeated if reason.startswith(("401", "503"))]
            _demand(not refused, f"refused though the key is known: {refused}")
            exporter.process.kill()
            exporter.process.start()  # which remembers no certificate
            _demand(exporter.status("/healthz") == 200, "it says that it is ill")
            load.wait_for_refusals("503 certificates_unavailable", 20)
            mended(keys.server)
            back, acknowledged = time.monotonic(), load.pushes.acknowledged
            eventually(lambda: load.pushes.acknowledged > acknowledged, within=70, what="a push is taken")
            took = time.monotonic() - back
            load.finish()
            refusals = load.pushes.repeated["503 certificates_unavailable"]
            return (
                f"known keys went on; after a restart {refusals} were refused, the next taken {took:.1f} s"
                f" after the endpoint was back; {keys.server.fetches} fetches; {load.exact()}"
            )


class _Normal:
    """Pushes at an even rate, each timed."""

    per_second: Final = 100

    def __init__(self, exporter: Exporter, door: Door, seed: int) -> None:
        self.failed: list[str] = []
        self._port = port_of(exporter)
        self._token = door.token
        self._seed = seed
        self._number = 0

    async def latencies(self, seconds: float) -> list[float]:
        """In milliseconds, from when each was due."""
        took: list[float] = []
        free: asyncio.Queue[Wire] = asyncio.Queue()
        wires = [Wire(self._port) for _ in range(32)]
        for wire in wires:
            free.put_nowait(wire)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * self.per_second)):
                due = began + number / self.per_second
                await asyncio.sleep(max(due - time.monotonic(), 0))
                group.create_task(self._push(free, due, took))
        for wire in wires:
            wire.close()
        return took

    async def _push(self, free: "asyncio.Queue[Wire]", due: float, took: list[float]) -> None:
        self._number += 1
        name = f"gke-{self._seed}-{self._number}"
        body = body_of(insert(name, instance_id=made_id(name)))
        wire = await free.get()
        try:
            answer = await wire.post("/events/creation", body, self._token)
        except (OSError, EOFError) as exc:
            self.failed.append(type(exc).__name__)
        else:
            took.append(1000 * (time.monotonic() - due))
            if answer.status != 200:
                self.failed.append(answer.outcome)
        finally:
            free.put_nowait(wire)


def _made(size: Size, seed: int) -> Traffic:
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    return lives(chance, interruptions=size.interruptions, names=size.interruptions // 5)


def _halves(made: Traffic) -> tuple[list[Message], list[Message]]:
    """The creations, and the interruptions, each once."""
    once = dict.fromkeys(made.messages)
    first: dict[object, Message] = {}
    for message in once:
        first.setdefault((message.endpoint, _identity(message)), message)
    return (
        [message for message in first.values() if message.endpoint == "creation"],
        [message for message in first.values() if message.endpoint == "interruption"],
    )


def _identity(message: Message) -> tuple[str, str]:
    """An entry's instance id and moment, as the ledger has them."""
    entry = json.loads(base64.b64decode(json.loads(message.body)["message"]["data"]))
    return entry["resource"]["labels"]["instance_id"], datetime.fromisoformat(entry["timestamp"]).isoformat()


def _overwrite_until_it_ends(exporter: Exporter) -> int | None:
    """Its exit status; None where it has all of the file in its memory, does not notice, and is killed."""
    until = time.monotonic() + 8
    while time.monotonic() < until:
        with exporter.store.open("r+b") as file:
            length = file.seek(0, 2) - _PAGE
            file.seek(_PAGE)
            file.write(b"\xa5" * max(length, 0))
        with suppress(TimeoutError):
            return exporter.process.wait(within=0.2)
    exporter.process.kill()
    return None


def _wait(pushes: Pushes, count: float, done: "Future[None]") -> None:
    eventually(
        lambda: pushes.acknowledged >= count or done.done(),
        within=120,
        what=f"{count:.0f} messages are acknowledged",
    )


def _by_name(samples: Samples, name: str) -> dict[Labels, float]:
    return {labels: value for (series, labels), value in samples.items() if series == name and value}


def _resident_mib(pid: int) -> int:
    [kib] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return round(int(kib) / 1024)


def _percentiles(milliseconds: list[float]) -> str:
    ordered = sorted(milliseconds)
    return f"{ordered[len(ordered) // 2]:.1f}/{ordered[len(ordered) * 99 // 100]:.1f}"


def _demand(fulfilled: bool, otherwise: str) -> None:  # noqa: FBT001
    if not fulfilled:
        raise HarmError(otherwise)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults under load, and what they must not do.")
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
