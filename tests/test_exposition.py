"""The exposition is, byte for byte, what the encoders of prometheus_client print."""

from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.exposition import Families, RenderedTable, preferred_format

FORMATS: Final = ["text/plain", "application/openmetrics-text"]
ROWS: Final = st.dictionaries(
    st.text(st.sampled_from('a"\\\n#\x85\u2028 {}=é'), max_size=4),
    st.tuples(st.floats(allow_nan=False), st.booleans()),
    max_size=5,
)


def families(rows: Sequence[tuple[str, float, bool]]) -> Sequence[Metric]:
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


@pytest.mark.parametrize("accept", FORMATS)
@settings(deadline=None)
@given(history=st.lists(ROWS, min_size=1, max_size=4))
def test_it_prints_what_the_librarys_encoder_prints(
    accept: str, history: list[dict[str, tuple[float, bool]]]
) -> None:
    table: RenderedTable[str, tuple[str, float, bool]] = RenderedTable(families)
    encode = preferred_format(accept).encode
    for rows in history:
        keyed = {pool: (pool, *row) for pool, row in rows.items()}

        printed = b"".join(family.encode(encode) for family in table.render(keyed))

        assert printed == encode(Families(families(list(keyed.values())))).removesuffix(b"# EOF\n")


def test_only_changed_rows_are_rendered_again() -> None:
    rendered: list[str] = []

    def recording(rows: Sequence[tuple[str, float, bool]]) -> Sequence[Metric]:
        rendered.extend(pool for pool, *_ in rows)
        return families(rows)

    table: RenderedTable[str, tuple[str, float, bool]] = RenderedTable(recording)
    table.render({"a": ("a", 1.0, True), "b": ("b", 1.0, True)})
    rendered.clear()

    table.render({"a": ("a", 1.0, True), "b": ("b", 2.0, True), "c": ("c", 1.0, False)})

    assert rendered == ["b", "c"]
