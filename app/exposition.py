"""The text of the exposition: what has not changed since the last scrape is not rendered again.

The lines are those of prometheus_client's encoders, which are too slow for tens of thousands of series.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from app.negotiation import MediaType, preferred

_END: Final = b"# EOF\n"
"""The last line in OpenMetrics, and only there."""

_Key = TypeVar("_Key")
_Row = TypeVar("_Row")


class Format(NamedTuple):
    """A format of the exposition."""

    encode: Callable[[Collector], bytes]
    content_type: str


_FORMATS: Final[Mapping[MediaType, Format]] = {
    MediaType("text/plain", "0.0.4"): Format(generate_latest, "text/plain; version=0.0.4; charset=utf-8"),
    MediaType("application/openmetrics-text", "1.0.0"): Format(
        # Our names need no escaping: the bytes are those of `underscores`, and take a third less time.
        partial(openmetrics.generate_latest, escaping=openmetrics.ALLOWUTF8),
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
    ),
}
"""The default first. https://prometheus.io/docs/instrumenting/content_negotiation/"""


def preferred_format(accept: str) -> Format:
    """Return the format that an `Accept` header prefers."""
    return _FORMATS[preferred(accept, tuple(_FORMATS))]


class Families:
    """A collector of metric families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


class RenderedFamily(NamedTuple):
    """A metric family, and the lines of its samples. The lines are the same in every format."""

    family: Metric
    """Without samples."""
    lines: str

    def encode(self, encode: Callable[[Collector], bytes]) -> bytes:
        """Return the family in a format."""
        return encode(Families([self.family])).removesuffix(_END) + self.lines.encode()


class RenderedTable(Generic[_Key, _Row]):
    """Metric families with samples for each row of a table. It keeps the lines of rows that do not change."""

    def __init__(self, families: Callable[[Sequence[_Row]], Sequence[Metric]]) -> None:
        """`families` returns the same families for any rows, with the samples of each row in turn."""
        self._families = families
        self._lines: dict[_Key, tuple[_Row, Sequence[str]]] = {}
        """The row that was rendered, and its lines in each family."""

    def render(self, rows: Mapping[_Key, _Row]) -> Sequence[RenderedFamily]:
        """Return the families with the samples of these rows."""
        known = self._lines
        changed = {key: row for key, row in rows.items() if key not in known or known[key][0] != row}
        if changed:
            lines = self._render_rows(changed.values())
            known |= {key: (row, own) for (key, row), own in zip(changed.items(), lines, strict=True)}
        # In the order of the rows, and without those that are gone.
        self._lines = {key: known[key] for key in rows}
        columns = zip(*(lines for _, lines in self._lines.values()), strict=True)
        families = self._families(())
        bodies = ["".join(column) for column in columns] or [""] * len(families)
        return [RenderedFamily(*pair) for pair in zip(families, bodies, strict=True)]

    def _render_rows(self, rows: Iterable[_Row]) -> Sequence[Sequence[str]]:
        """Return the lines of each row in each family."""
        families = self._families(())
        counts: list[list[int]] = []
        for row in rows:
            of_row = self._families([row])
            counts.append([len(family.samples) for family in of_row])
            for family, more in zip(families, of_row, strict=True):
                family.samples.extend(more.samples)
        columns = []
        for place, family in enumerate(families):
            encoded = generate_latest(Families([family])).decode().split("\n")
            lines = iter(f"{line}\n" for line in encoded if not line.startswith("# "))
            columns.append(["".join(next(lines) for _ in range(count[place])) for count in counts])
        return list(zip(*columns, strict=True))
