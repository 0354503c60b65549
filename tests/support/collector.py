"""A model of a managed collector, such as that of Google Cloud Managed Service for Prometheus.

https://cloud.google.com/stackdriver/docs/managed-prometheus/troubleshooting#counter-sums
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Final

from tests.support.samples import parsed

_OF_COUNTERS: Final = ("_total", "_bucket", "_count", "_sum")


class ManagedCollector:
    """Stores how much each counter has grown. The first sample of a series is its zero, and is dropped."""

    def __init__(self) -> None:
        self._grown: defaultdict[str, float] = defaultdict(float)
        self._last: dict[str, str] = {}
        self._unchanged: Collection[str] = ()

    def replace(self) -> None:
        """Continue with a new collector, as on another node. What was stored remains."""
        self._last.clear()
        self._unchanged = ()

    def scrape(self, exposition: str) -> None:
        """Take the samples of a scrape, in Prometheus' text format."""
        lines = exposition.splitlines()
        for line in lines:
            if line not in self._unchanged:
                series, _, value = line.rpartition(" ")
                if not line.startswith("#") and series.partition("{")[0].endswith(_OF_COUNTERS):
                    self._take(series, value)
        self._unchanged = set(lines)

    def _take(self, series: str, value: str) -> None:
        last, now = float(self._last.get(series, value)), float(value)
        # A lower value means that the process has started again, at 0.
        self._grown[series] += now - last if now >= last else now
        self._last[series] = value

    def grown(self, counter: str) -> Mapping[frozenset[tuple[str, str]], float]:
        """Return how much each series of a counter has grown, by its labels."""
        lines = [
            f"{series} {value}\n"
            for series, value in self._grown.items()
            if series.partition("{")[0] == counter
        ]
        return {labels: value for (_, labels), value in parsed("".join(lines)).items()}
