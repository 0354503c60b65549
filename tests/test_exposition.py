"""The exposition is, byte for byte, what the encoders of prometheus_client print."""

from collections.abc import Mapping, Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.exposition import Families, RenderedTable, preferred_format

FORMATS: Final = ["text/plain", "application/openmetrics-text"]
VALUES: Final = st.floats(allow_nan=False).map(lambda value: value + 0.0)
"""Without -0.0, which equals 0.0: no total is -0.0."""
ROWS: Final = st.dictionaries(
    st.text(st.sampled_from('a"\\\n#\x85\u2028 {}=é'), max_size=4),
    st.tuples(VALUES, st.booleans()),
    max_size=5,
)

Row = tuple[str, float, bool]


def families(rows: Sequence[Row]) -> Sequence[Metric]:
    """Return a counter, a gauge that only some rows have, and a histogram."""
    total = CounterMetricFamily("lost", "Lost \\ nodes", labels=["pool"])
    newest = GaugeMetricFamily("newest", "Newest", labels=["pool"])
    ages = HistogramMetricFamily("ages", "Ages", labels=["pool"])
    for pool, value, has_newest in rows:
        total.add_metric([pool], value)
        if has_newest:
            newest.add_metric([pool], value)
        ages.add_metric([pool], buckets=[("1.0", 1), ("+Inf", 3)], sum_value=value)
    return total, newest, ages


def values(row: Row) -> Sequence[Sequence[float]]:
    _, value, has_newest = row
    return (value,), (value,) if has_newest else (), (1, 3, 3, value)


def printed(table: "RenderedTable[str, Row]", rows: Mapping[str, Row], accept: str) -> bytes:
    encode = preferred_format(accept).encode
    rendered = table.render(list(rows), list(rows.values()))
    return b"".join(part for family in rendered for part in family.encode(encode))


@pytest.mark.parametrize("accept", FORMATS)
@settings(deadline=None)
@given(history=st.lists(ROWS, min_size=1, max_size=4))
def test_it_prints_what_the_librarys_encoder_prints(
    accept: str, history: list[dict[str, tuple[float, bool]]]
) -> None:
    table: RenderedTable[str, Row] = RenderedTable(families, values)
    encode = preferred_format(accept).encode
    for rows in history:
        keyed = {pool: (pool, *row) for pool, row in rows.items()}

        assert printed(table, keyed, accept) == encode(Families(families(list(keyed.values())))).removesuffix(
            b"# EOF\n"
        )


@pytest.mark.parametrize("accept", FORMATS)
def test_more_rows_than_a_slice_are_all_printed_in_order(accept: str) -> None:
    table: RenderedTable[str, Row] = RenderedTable(families, values)
    encode = preferred_format(accept).encode
    rows = {f"{number}": (f"{number}", float(number), number % 3 == 0) for number in range(1203)}

    assert printed(table, rows, accept) == encode(Families(families(list(rows.values())))).removesuffix(
        b"# EOF\n"
    )


def test_the_library_renders_only_rows_that_are_new_or_have_other_lines() -> None:
    rendered: list[str] = []

    def recording(rows: Sequence[Row]) -> Sequence[Metric]:
        rendered.extend(pool for pool, *_ in rows)
        return families(rows)

    table: RenderedTable[str, Row] = RenderedTable(recording, values)
    printed(table, {"a": ("a", 1.0, True), "b": ("b", 1.0, True), "c": ("c", 1.0, False)}, FORMATS[0])
    rendered.clear()

    printed(
        table,
        {
            "a": ("a", 1.0, True),
            "b": ("b", 2.0, True),
            "c": ("c", 1.0, True),
            "d": ("d", 1.0, False),
        },
        FORMATS[0],
    )

    assert rendered == ["c", "d"]
