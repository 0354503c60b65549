"""`kill -9` and a full disk: what was answered is there, and every event counts exactly once."""

import asyncio
import random
import resource
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.load import port_of
from tests.chaos.push_sender import PushConnection
from tests.support.entries import JsonObject, insert, made_id, preempted
from tests.support.process import eventually
from tests.support.program import ExporterProcess, body_of, endpoint_of

pytestmark = pytest.mark.usefixtures("quick_programs")

NAMES: Final = 60
LIVES: Final = 5
KILLS: Final = 4
CALLERS: Final = 16
ZONES: Final = ("europe-west1-b", "europe-west1-c")
CLUSTERS: Final = ("tills", "ovens", "shelves")
MACHINE_TYPES: Final = ("e2-standard-8", "n2-standard-4")


@dataclass(slots=True)
class Traffic:
    """Creations and interruptions of instances whose names are used again, and what they add up to."""

    entries: list[JsonObject] = field(default_factory=list)
    interruptions: Counter[frozenset[tuple[str, str]]] = field(default_factory=Counter)
    by_cluster: Counter[str] = field(default_factory=Counter)
    lifetimes: Counter[tuple[str, str]] = field(default_factory=Counter)


def traffic(chance: random.Random) -> Traffic:
    """300 lives of 60 names, each created and interrupted, one in eight delivered twice, in any order."""
    made = Traffic()
    for number in range(NAMES * LIVES):
        name = f"gke-{number % NAMES}"
        zone = ZONES[number % NAMES % len(ZONES)]
        life = number // NAMES
        # A life's machine type is its own: an interruption that went to another life would show.
        cluster, machine_type = CLUSTERS[number % NAMES % 3], MACHINE_TYPES[life % 2]
        instance_id = made_id(name, str(life))
        begun, ended = f"2026-03-0{life + 1}T08:00:00Z", f"2026-03-0{life + 1}T11:00:00Z"
        made.entries += [
            insert(
                name,
                zone=zone,
                instance_id=instance_id,
                cluster=cluster,
                machine_type=machine_type,
                timestamp=begun,
                operation=f"insert-{number}",
            ),
            preempted(name, zone=zone, instance_id=instance_id, timestamp=ended),
        ]
        labels = {
            "project": "shop-prod",
            "kubernetes_cluster": cluster,
            "cluster_location": "europe-west1",
            "node_pool": "spot",
            "zone": zone,
            "machine_type": machine_type,
        }
        made.interruptions[frozenset(labels.items())] += 1
        made.by_cluster[cluster] += 1
        made.lifetimes[cluster, machine_type] += 1
    made.entries += chance.sample(made.entries, len(made.entries) // 8)
    chance.shuffle(made.entries)
    return made


def test_over_kills_every_event_counts_exactly_once(tmp_path: Path) -> None:
    chance = random.Random(20260302)  # noqa: S311  # to be repeated, not to be secret
    made = traffic(chance)
    with ExporterProcess(tmp_path) as exporter:
        delivery = Delivery(exporter, made.entries, chance)
        asyncio.run(delivery.run())
        samples = exporter.samples()

    def shown(name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (series, labels), value in samples.items() if series == name and value}

    assert delivery.kills == KILLS
    assert delivery.cut_off  # they came while requests were under way
    assert shown("spot_interruptions_total") == made.interruptions
    assert shown("spot_instances_created_total") == made.interruptions
    assert shown("spot_instances") == {}
    assert shown("spot_interruption_exporter_pending_interruptions") == {}
    assert shown("interruption_events_total") == {
        frozenset({("kubernetes_cluster", cluster)}): number for cluster, number in made.by_cluster.items()
    }
    assert shown("spot_instance_lifetime_seconds_count") == {
        frozenset({("kubernetes_cluster", cluster), ("machine_type", machine_type)}): number
        for (cluster, machine_type), number in made.lifetimes.items()
    }
    assert sum(shown("spot_instance_lifetime_seconds_sum").values()) == 3 * 3600 * NAMES * LIVES


class Delivery:
    """Delivers entries as Pub/Sub does, again until they are answered 200, and kills their receiver."""

    def __init__(self, exporter: ExporterProcess, entries: list[JsonObject], chance: random.Random) -> None:
        self.cut_off = 0
        self.kills = 0
        self._exporter = exporter
        self._waiting = deque((endpoint_of(entry), body_of(entry)) for entry in entries)
        self._unanswered = len(entries)
        self._kill_at = set(chance.sample(range(len(entries) // 10, len(entries)), KILLS))
        self._chance = chance
        self._one_kill = asyncio.Lock()
        self._up = asyncio.Event()

    async def run(self) -> None:
        self._up.set()
        await asyncio.gather(*(self._deliver() for _ in range(CALLERS)))

    async def _deliver(self) -> None:
        async with PushConnection(port_of(self._exporter)) as connection:
            while True:
                await self._up.wait()
                if not self._waiting:
                    return
                endpoint, body = self._waiting.popleft()
                try:
                    answer = await connection.post(f"/events/{endpoint}", body, token="", within=90)
                except (OSError, EOFError):
                    self.cut_off += 1
                    self._waiting.append((endpoint, body))
                    continue
                assert answer.status == 200, answer.body
                self._unanswered -= 1
                if self._unanswered in self._kill_at:
                    await self._kill()

    async def _kill(self) -> None:
        """Kill it while the other callers' requests are under way, and start it again."""
        async with self._one_kill:
            await asyncio.sleep(self._chance.random() / 200)  # in the middle of a commit, or between two
            self._exporter.process.kill()
            self.kills += 1
            self._up.clear()
            # Which raises if it ends: with a lock that had outlived its holder it would.
            await asyncio.to_thread(self._exporter.process.start)
            self._up.set()


def test_a_full_disk_is_answered_503_and_nothing_is_lost_once_there_is_room(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path) as exporter:
        pid = exporter.process.pid
        for number in range(20):
            assert exporter.outcome(insert(f"gke-{number}")) == "tracked"
        assert exporter.outcome(preempted("gke-0")) == "counted"

        # To a process that may write no file beyond its first page, every disk is full.
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        refused = [preempted(f"gke-{number}") for number in range(1, 6)]
        for entry in refused:
            assert exporter.reason(entry) == (503, "store_unavailable")
        assert exporter.status("/healthz") == 200
        assert exporter.interruptions("tills") == 1

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        eventually(lambda: exporter.push(refused[0]).status_code == 200, within=5, what="there is room")
        assert [exporter.outcome(entry) for entry in refused] == ["duplicate", *["counted"] * 4]
        assert exporter.interruptions("tills") == 6
        exporter.process.kill()
        exporter.process.start()
        assert exporter.interruptions("tills") == 6
