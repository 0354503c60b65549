"""The exporter with its clock set ahead: `python -m tests.bench.shifted_clock CONFIG DAYS`.

The backlog benchmark uses it to reach the end of the retention period without waiting for it.
"""

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from app.exporter import Exporter, Overrides
from app.logs import configure
from app.serving import listening, stop_signals
from app.settings import load_settings


async def serve(config: Path, days: float) -> None:
    """Serve as `python -m app` does, until a stop signal arrives."""
    settings, _ = load_settings(config, {})
    configure(settings.log_level)
    with stop_signals() as stops:
        overrides = Overrides(clock=lambda: time.time() + days * 86400)
        exporter = Exporter(settings, overrides=overrides)
        async with exporter.running(), listening(exporter):
            await stops.get()


def main() -> None:
    """Serve with the configuration file and the number of days from the command line."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), float(sys.argv[2])))


if __name__ == "__main__":
    main()
