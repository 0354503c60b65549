"""The text of the exposition: what has not changed since the last scrape is not rendered again.

The lines are those of prometheus_client's encoders, which are too slow for tens of thousands of series.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.negotiation import MediaType, preferred

_END: Final = b"# EOF\n"
"""The last line in OpenMetrics, and only there."""

_SLICE_ROWS: Final = 500
"""The number of rows that are rendered, or joined, at a time. The whole would hold the interpreter's lock."""

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
    """A collector of metric families that exist already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


class RenderedFamily(NamedTuple):
    """A metric family, and the lines of its samples. The lines are the same in every format."""

    family: Metric
    """Without samples."""
    lines: Sequence[bytes]
    """The lines of each row, joined."""

    def encode(self, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
        """Yield the parts of the family in a format."""
        yield encode(Families([self.family])).removesuffix(_END)
        for first in range(0, len(self.lines), _SLICE_ROWS):
            yield b"".join(self.lines[first : first + _SLICE_ROWS])


class RenderedTable(Generic[_Key, _Row]):
    """Metric families with samples for each row of a table. It keeps the lines of rows that do not change.

    The library renders a row once. After that only the values in its lines change.
    """

    def __init__(
        self,
        families: Callable[[Sequence[_Row]], Sequence[Metric]],
        values: Callable[[_Row], Sequence[Sequence[float]]],
    ) -> None:
        """`families` returns the same families for any rows, with the samples of each row in turn.

        `values` returns the values of a row's samples in each family.
        """
        self._families = families
        self._values = values
        self._keys: Sequence[_Key] = ()
        self._rows: list[_Row | None] = []
        """The rows that were rendered, in the order of the keys. None for a new key."""
        self._lines: Sequence[list[bytes]] = [[] for _ in families(())]
        """The lines of each family and row."""

    def render(self, keys: Sequence[_Key], rows: Sequence[_Row]) -> Sequence[RenderedFamily]:
        """Return the families with the samples of these rows, which have these keys."""
        if keys != self._keys:  # quick: most keys are the same objects, and nothing is hashed
            self._arrange(keys)
        changed = [place for place, (old, row) in enumerate(zip(self._rows, rows, strict=True)) if old != row]
        unknown = [place for place in changed if not self._update(place, rows[place])]
        for first in range(0, len(unknown), _SLICE_ROWS):
            self._render(unknown[first : first + _SLICE_ROWS], rows)
        return [RenderedFamily(*pair) for pair in zip(self._families(()), self._lines, strict=True)]

    def _arrange(self, keys: Sequence[_Key]) -> None:
        """Put the known rows into the order of the keys."""
        places = {key: place for place, key in enumerate(self._keys)}
        known = [places.get(key) for key in keys]
        self._rows = [None if place is None else self._rows[place] for place in known]
        self._lines = [[b"" if place is None else column[place] for place in known] for column in self._lines]
        self._keys = keys

    def _update(self, place: int, row: _Row) -> bool:
        """Replace the values in the lines of a row. Return False if the row has other lines now."""
        old = self._rows[place]
        if old is None:
            return False
        for column, before, now in zip(self._lines, self._values(old), self._values(row), strict=True):
            if len(before) != len(now):
                return False
            if before != now:
                column[place] = _with_values(column[place], now)
        self._rows[place] = row
        return True

    def _render(self, places: Sequence[int], rows: Sequence[_Row]) -> None:
        """Have the library render these rows."""
        families = self._families([rows[place] for place in places])
        counts = zip(*(map(len, self._values(rows[place])) for place in places), strict=True)
        for column, family, of_rows in zip(self._lines, families, counts, strict=True):
            encoded = generate_latest(Families([family])).split(b"\n")
            lines = iter([b"%b\n" % line for line in encoded if not line.startswith(b"# ")])
            for place, count in zip(places, of_rows, strict=True):
                column[place] = b"".join(islice(lines, count))
        for place in places:
            self._rows[place] = rows[place]


def _with_values(lines: bytes, values: Sequence[float]) -> bytes:
    """Return the lines with these values in place of theirs."""
    samples = lines.split(b"\n")
    return b"".join(
        b"%b %b\n" % (sample[: sample.rindex(b" ")], floatToGoString(value).encode())
        for sample, value in zip(samples[:-1], values, strict=True)
    )
