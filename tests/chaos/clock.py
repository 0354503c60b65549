"""The fault of a clock that is set back and later corrected."""

import time
from pathlib import Path
from typing import Final

from tests.chaos.fault_check import Size
from tests.chaos.load import ExporterAccess, Load
from tests.support.exporter import Exporter

_HOUR: Final = 3600.0


def clock_back(directory: Path, size: Size, seed: int) -> str:
    """Set the clock back by an hour under load, and later forward again. No counter goes down."""
    skew = 0.0

    def now() -> float:
        return time.time() + skew

    # A clock that goes forward by an hour ends every shorter grace period.
    settings = {"pubsub.authentication": "none", "attribution.grace_seconds": 2 * _HOUR}
    with (
        Exporter(directory, settings, two_listeners=True, clock=now) as exporter,
        Load(ExporterAccess.of_thread(exporter), size, seed) as load,
    ):

        def account() -> None:
            """Add the instances' lifetime to the totals, as the exporter does every minute."""
            recorder = exporter.parts.recorder
            exporter.perform(recorder.perform(lambda store, at: store.accrue_instance_seconds(at))).result(
                120
            )

        for share, skew in ((0.3, -_HOUR), (0.6, 0.0), (0.8, -_HOUR)):  # noqa: B007
            load.wait(share)
            account()
        load.finish()
        account()
        return f"three clock changes; {load.check_exact()}"
