"""The simulation on Redis: two exporters share a server, which is killed, restored, emptied and replaced."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from app.domain.replicas import ReplicaSettings
from app.store.engine import SharedEngine
from app.store.memory import Memory
from app.store.port import OpenedStore, Sync
from app.store.redis.backend import SYNC_SECONDS, RedisBackend
from app.store.redis.connection import Link
from app.store.redis.ledger import RedisLedger
from tests.chaos.cloud import PROJECT
from tests.chaos.plain_model import Model
from tests.chaos.simulation.base import Fault, Simulation
from tests.chaos.simulation.clocks import HOUR, Clock
from tests.chaos.simulation.exporter import Exporter
from tests.chaos.simulation.log import ROLLBACK, Log
from tests.chaos.simulation.redis_reader import RedisReader
from tests.chaos.simulation.report import require
from tests.chaos.simulation.scene import RULES
from tests.support.network import LOSSES, Network
from tests.support.process import LOOPBACK
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, key

_NAMES: Final = ("one", "two")
_MOST_REQUESTS: Final = 12
"""A fault of a connection happens after so many requests at most."""
_LOST_STEPS: Final = 10
"""Steps that a lagging replica of Redis misses."""
_ROUNDS: Final = 10
_SYNC_MARGIN_SECONDS: Final = SYNC_SECONDS + 1
_OPTIONS: Final = ("--appendonly", "no", "--repl-diskless-sync-delay", "0")

# Lets the keys that the server expires within minutes become older.
_AGE: Final = """#!lua flags=allow-oom
for _, name in ipairs(KEYS) do
  local left = redis.call('PTTL', name)
  if left > 0 then redis.call('PEXPIRE', name, math.max(left - ARGV[1], 0)) end
end
"""


class RedisSimulation(Simulation):
    """Two exporters, the network of each, and their server, during a `with` block."""

    def __init__(self, directory: Path, seed: int, log: Log) -> None:
        self._servers = [RedisServer(directory / name, *_OPTIONS) for name in ("first", "second")]
        self._networks = {name: Network(self._server.port) for name in _NAMES}
        super().__init__(seed, _NAMES, log)
        self._up = True
        self._full = False
        self._saved: Model | None = None
        """The state of the snapshot on the server's disk; None if there is none that the model knows."""

    @property
    def _server(self) -> RedisServer:
        """The server that the exporters use."""
        return self._servers[0]

    @property
    def _client(self) -> Any:  # noqa: ANN401 - redis-py's, whose types are those of two clients
        return self._server.client

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._server)
            for network in self._networks.values():
                stack.enter_context(network)
            for server in self._servers:
                stack.callback(server.process.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def faults(self) -> Mapping[Fault, float]:
        return {
            self._lose_reply: 0.004,
            self._lose_request: 0.003,
            self._race: 0.01,
            self._save: 0.002,
            self._restart_server: 0.001,
            self._server_away: 0.001,
            self._restore: 0.0006,
            self._flush: 0.0003,
            self._fail_over: 0.0002,
            self._full_server: 0.003,
            self._stopped_server: 0.0002,
        }

    def open_store(self, name: str, clock: Clock) -> OpenedStore:
        network, monotonic = self._networks[name], clock.time.monotonic
        network.heal()
        network.ended = False
        if self._full:
            self._set_full(full=False)  # no exporter starts otherwise
        memory = Memory(RULES, hold=False, settings=ReplicaSettings.make([PROJECT], {}))
        link, reading = (Link(network.url, monotonic=monotonic) for _ in range(2))
        backend = RedisBackend(link, memory, replica=name, monotonic=monotonic, clock=clock.wall)
        backend.open()
        store = SharedEngine(backend)
        return OpenedStore(store, RedisLedger(reading), sync=Sync(store.sync, SYNC_SECONDS))

    def kill_soon(self, exporter: Exporter, uses: int) -> None:
        loss = self.random.choice(LOSSES)
        self._networks[exporter.name].lose(loss, after=uses, then=lambda: self.kill_now(exporter))

    def kill_now(self, exporter: Exporter) -> None:
        self._networks[exporter.name].ended = exporter.killed = True

    def heal(self) -> None:
        for network in self._networks.values():
            network.heal()
        if self._full:
            self._set_full(full=False)

    def age(self, seconds: float) -> None:
        if self._up:
            keys = [key("lease"), *(key("of", name, "settings") for name in _NAMES)]
            self._client.eval(_AGE, len(keys), *keys, round(1000 * seconds))

    def reader(self) -> RedisReader:
        return RedisReader(lambda: self._client)

    def started(self, exporter: Exporter) -> None:
        """Do nothing. A rollback is reported later."""

    def check_log(self) -> None:
        require(not self.log.take(ROLLBACK), "a rollback is reported that has not happened")

    # faults of the network

    async def _lose_reply(self) -> None:
        self._any_network().lose("reply", after=self.random.randint(0, _MOST_REQUESTS))

    async def _lose_request(self) -> None:
        self._any_network().lose("request", after=self.random.randint(0, _MOST_REQUESTS))

    def _any_network(self) -> Network:
        return self._networks[self.random.choice(_NAMES)]

    async def _race(self) -> None:
        """Deliver to one exporter while a transaction of the other one is on its way."""
        one, other = self.random.sample(self.exporters, 2)
        if not (one.running and other.running):
            return
        loop = asyncio.get_running_loop()
        events = self.cloud.take_due(self.time.true, 10)
        again = self.random.sample(events, self.random.randint(0, len(events)))
        raced = [*again, *self.cloud.take_due(self.time.true, 10)]
        put_off = [raced]

        def deliver() -> None:
            asyncio.run_coroutine_threadsafe(self.deliver_to(other, raced), loop).result(60)
            put_off.remove(raced)

        network = self._networks[one.name]
        network.before_exec(deliver)
        if self.random.random() < 0.5:
            await self.deliver_to(one, events)
        else:
            await self._do_other_work()
            put_off.append(events)
        network.heal()
        for left in put_off:
            self.cloud.refuse(left, self.time.true)

    # faults of the server

    async def _save(self) -> None:
        """Let the server take a snapshot."""
        if await self._settle():
            self._client.save()
            self._saved = self.judge.snapshot()

    async def _restart_server(self) -> None:
        """Kill the server during a request, and start it with everything that it had."""
        loss = self.random.choice(LOSSES)
        self._any_network().lose(loss, after=self.random.randint(0, _MOST_REQUESTS), then=self._restart)

    async def _server_away(self) -> None:
        """Let the exporters run without their server for hours."""
        self._client.save()
        self._saved = None
        self._server.process.kill()
        self._up = False
        for _ in range(self.random.randint(1, 5)):
            self.pass_time(self.random.uniform(60, 2 * HOUR), up=False)
            self.cloud.act(self.time.true)
            await self.deliver()
            await self.run_periodic_work()
        self._start_server()

    async def _stopped_server(self) -> None:
        """Stop the server until a request times out. Afterwards it executes the request."""
        self._server.process.send(signal.SIGSTOP)
        await self.deliver()
        self._server.process.send(signal.SIGCONT)
        self._client.ping()

    async def _full_server(self) -> None:
        self._set_full(full=not self._full)

    def _set_full(self, *, full: bool) -> None:
        self._full = full
        self._client.config_set("maxmemory", 1 if full else 0)

    def _restart(self) -> None:
        self._client.save()
        self._saved = None
        self._server.process.kill()
        self._start_server()

    def _start_server(self) -> None:
        self._server.process.start()
        self._up, self._full = True, False

    # the server goes back to older data

    async def _restore(self) -> None:
        """Kill the server, and start it from its latest snapshot."""
        if self._saved is not None and await self._settle():
            self._server.process.kill()
            self._start_server()
            await self._go_back(self._saved)

    async def _flush(self) -> None:
        if await self._settle():
            self._client.flushall()
            await self._go_back(None)

    async def _fail_over(self) -> None:
        """Kill the server, and use a replica of it that has missed some steps."""
        standby = self._servers[1]
        standby.process.start()
        with Proxy(self._server.port) as replication:
            standby.client.replicaof(LOOPBACK, replication.port)
            settled = await self._settle() and self._client.wait(1, 60_000) == 1
            saved = self.judge.snapshot() if settled else None
            replication.go_dark()
            for _ in range(_LOST_STEPS if settled else 0):
                self.pass_time(self.random.uniform(1, 60))
                self.let_cloud_act(1)
                await self.deliver()
                await self.run_periodic_work()
                await self.restart_if_needed()
            if saved is None or not await self._settle():
                standby.process.kill()
                return
            self._server.process.kill()
        standby.client.replicaof("NO", "ONE")
        self._servers.reverse()
        for network in self._networks.values():
            network.target = self._server.port
        self._full, self._saved = False, None
        await self._go_back(saved)

    async def _settle(self) -> bool:
        """End all faults, and return whether the model knows everything about the store."""
        self.heal()
        for _ in range(_ROUNDS):
            await self.restart_if_needed()
            self.pass_time(_SYNC_MARGIN_SECONDS)
            await self.run_periodic_work()
            self.judge.check(self.exporters)
            if not self.judge.doubts:
                break
            self.pass_time(60)
            await self.deliver()
        settled = all(exporter.fresh for exporter in self.exporters) and not self.judge.doubts
        if not settled:
            self.report.note("put off, because the store is not known well enough")
        return settled

    async def _go_back(self, to: Model | None) -> None:
        """Let the exporters notice that the server has gone back. Each reports it once."""
        self.check_log()
        self.judge.go_back(to)
        self.pass_time(_SYNC_MARGIN_SECONDS)
        await self.random.choice((self.deliver, self._do_other_work))()
        self.pass_time(_SYNC_MARGIN_SECONDS)
        await self.run_periodic_work()
        for exporter in self.exporters:
            require(exporter.fresh, f"{exporter.name} cannot use the server that has gone back")
        reported = self.log.take(ROLLBACK)
        require(len(reported) == len(self.exporters), f"{len(reported)} exporters have reported a rollback")
        self.report.explain("the server has gone back to older data")
        self.judge.check(self.exporters)

    async def _do_other_work(self) -> None:
        work: Sequence[Callable[[], Awaitable[None]]] = (
            self.run_periodic_work,
            self.list_fleet,
            self.recover_interruptions,
        )
        await self.random.choice(work)()
