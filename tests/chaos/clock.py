"""A clock that is set back, and later set right."""

import time
from pathlib import Path
from typing import Final

from tests.chaos.harm import Size
from tests.chaos.load import Load, Side
from tests.support.exporter import Exporter

_HOUR: Final = 3600.0


def clock_back(directory: Path, size: Size, seed: int) -> str:
    """The clock goes back by an hour under load, and later forth again; no counter does."""
    skew = 0.0

    def now() -> float:
        return time.time() + skew

    # A clock that goes forth by an hour ends every wait that is shorter.
    settings = {"pubsub.authentication": "none", "attribution.grace_seconds": 2 * _HOUR}
    with (
        Exporter(directory, settings, two_listeners=True, clock=now) as exporter,
        Load(Side.of_thread(exporter), size, seed) as load,
    ):

        def account() -> None:
            """Add the time that instances have lived, as each minute does."""
            recorder = exporter.parts.recorder
            exporter.perform(recorder.perform(lambda store, at: store.account(at))).result(120)

        for share, skew in ((0.3, -_HOUR), (0.6, 0.0), (0.8, -_HOUR)):  # noqa: B007
            load.wait(share)
            account()
        load.finish()
        account()
        return f"three steps; {load.exact()}"
