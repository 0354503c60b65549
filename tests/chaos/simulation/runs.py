"""A run of the simulation on a store in a folder of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.chaos.simulation.base import Simulation
from tests.chaos.simulation.log import Log, kept_log
from tests.chaos.simulation.redis import RedisSimulation
from tests.chaos.simulation.report import Report, SimulationError
from tests.chaos.simulation.sqlite import SQLiteSimulation
from tests.support.simulated_disk import SimulatedDisk

STORES: Final = ("sqlite", "redis")


def run(store: str, seed: int, steps: int) -> Report:
    """Run a simulation on one of `STORES`. Raises SimulationError with what happened last."""
    with (
        TemporaryDirectory() as folder,
        kept_log() as log,
        _simulation(store, Path(folder), seed, log) as simulation,
    ):
        try:
            return asyncio.run(simulation.run(steps))
        except SimulationError as exc:
            exc.add_note("\n".join((f"seed {seed}", *simulation.report.trace)))
            raise


@contextmanager
def _simulation(store: str, folder: Path, seed: int, log: Log) -> Iterator[Simulation]:
    if store == "sqlite":
        with SimulatedDisk() as disk:
            yield SQLiteSimulation(folder / "store.db", seed, log, disk)
    else:
        with RedisSimulation(folder, seed, log) as simulation:
            yield simulation
