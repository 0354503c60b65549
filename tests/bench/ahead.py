"""The exporter with its clock ahead, for what else takes days: `python -m tests.bench.ahead CONFIG DAYS`."""

import asyncio
import sys
import time
from pathlib import Path

import uvloop

from app.logs import configure
from app.main import Exporter, Surroundings, create_app
from app.serving import listening, stop_signals
from app.settings import load_settings


async def serve(config: Path, days: float) -> None:
    """Serve as `python -m app` does, until a signal."""
    settings, _ = load_settings(config, {})
    configure(settings.log_level)
    with stop_signals() as stops:
        surroundings = Surroundings(clock=lambda: time.time() + days * 86400)
        app = create_app(settings, surroundings=surroundings)
        exporter: Exporter = app.state.exporter
        async with exporter.running(), listening(settings, app):
            await stops.get()


def main() -> None:
    """Run it with the file and the days that the command line names."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), float(sys.argv[2])))


if __name__ == "__main__":
    main()
