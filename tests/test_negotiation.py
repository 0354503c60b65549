from typing import Final

import pytest

from app.negotiation import MediaType, accepts_gzip, preferred

TEXT: Final = MediaType("text/plain", "0.0.4")
OPEN: Final = MediaType("application/openmetrics-text", "1.0.0")

PROMETHEUS_2_42: Final = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_30: Final = (
    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3: Final = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_TEXT: Final = (
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2"
)
PROTOBUF_FIRST: Final = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    f"{PROMETHEUS_3_TEXT},application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        pytest.param("", TEXT, id="no-header"),
        pytest.param("*/*", TEXT, id="anything"),
        pytest.param("text/html,application/xml;q=0.9,*/*;q=0.8", TEXT, id="browser"),
        pytest.param(PROMETHEUS_2_42, OPEN, id="prometheus-2.42"),
        pytest.param(PROMETHEUS_2_30, TEXT, id="prometheus-2.30"),
        pytest.param(PROMETHEUS_3, OPEN, id="prometheus-3"),
        pytest.param(PROMETHEUS_3_TEXT, TEXT, id="prometheus-3-text-alone"),
        pytest.param(PROTOBUF_FIRST, OPEN, id="protobuf-first"),
        pytest.param(
            "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.1",
            TEXT,
            id="text-weighs-more",
        ),
        pytest.param(
            "text/plain;version=0.0.4;q=0.1,application/openmetrics-text;version=1.0.0;q=0.9",
            OPEN,
            id="openmetrics-weighs-more",
        ),
        pytest.param("application/openmetrics-text", OPEN, id="any-version"),
        pytest.param('Application/OpenMetrics-Text ; Version="1.0.0" ; Q=1', OPEN, id="spelling"),
        pytest.param("application/openmetrics-text;version=9.9.9", TEXT, id="a-version-of-the-future"),
        pytest.param("text/plain;version=1.0.0", TEXT, id="nothing-fits"),
        pytest.param("image/png", TEXT, id="another-type"),
        pytest.param("application/*", OPEN, id="a-range-of-types"),
        pytest.param("text/*;q=0.5,application/*;q=0.6", OPEN, id="ranges-have-weights"),
        pytest.param("*/*;q=0.5,text/plain;q=0.1", OPEN, id="the-exact-range-counts"),
        pytest.param("text/plain;version=0.0.4;q=0.1,text/plain,*/*;q=0.5", OPEN, id="the-version-is-exact"),
        pytest.param("*/*,application/openmetrics-text", OPEN, id="named-before-unnamed"),
        pytest.param("application/openmetrics-text,text/plain", OPEN, id="named-first"),
        pytest.param("text/plain,application/openmetrics-text", TEXT, id="named-second"),
        pytest.param("text/plain;q=0,*/*", OPEN, id="all-but-text"),
        pytest.param("application/openmetrics-text;q=0", TEXT, id="refused"),
        pytest.param("application/openmetrics-text;q=0.000,*/*;q=0.0", TEXT, id="everything-is-refused"),
        pytest.param("application/openmetrics-text;q=high,text/plain;q=0.1", TEXT, id="no-number"),
        pytest.param("application/openmetrics-text;q=1.5,text/plain;q=0.1", TEXT, id="too-high"),
        pytest.param("application/openmetrics-text;q=-1,text/plain;q=0.1", TEXT, id="too-low"),
        pytest.param("application/openmetrics-text;q=nan,text/plain;q=0.1", TEXT, id="nan"),
        pytest.param("application/openmetrics-text;q=,text/plain;q=0.1", TEXT, id="empty-weight"),
        pytest.param(",;;, ;q=1,/;q=0.9,=,\xe9", TEXT, id="malformed"),
        pytest.param(",,/;q=1,application/openmetrics-text;;=;q=0.1,", OPEN, id="between-malformed-ones"),
    ],
)
def test_the_preferred_format_is_chosen_by_weight(accept: str, expected: MediaType) -> None:
    assert preferred(accept, [TEXT, OPEN]) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        pytest.param("", False, id="no-header"),
        pytest.param("gzip", True, id="prometheus"),
        pytest.param("gzip, deflate, br, zstd", True, id="browser"),
        pytest.param("identity", False, id="prometheus-without-compression"),
        pytest.param("br", False, id="another"),
        pytest.param("GZIP ; Q=0.5", True, id="spelling"),
        pytest.param("x-gzip", True, id="the-old-name"),
        pytest.param("gzip;q=0", False, id="refused"),
        pytest.param("gzip;q=0.000, *", False, id="all-but-gzip"),
        pytest.param("*", True, id="anything"),
        pytest.param("*;q=0", False, id="nothing"),
        pytest.param("*;q=0, gzip;q=0.1", True, id="gzip-alone"),
        pytest.param("identity, gzip;q=0.5", False, id="rather-plain"),
        pytest.param("identity;q=0.5, gzip", True, id="rather-gzip"),
        pytest.param("gzip;q=much", False, id="malformed"),
        pytest.param("gzipped", False, id="a-longer-name"),
    ],
)
def test_gzip_is_accepted_by_weight(accept_encoding: str, *, accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is accepted


def test_only_the_beginning_of_a_long_list_is_read() -> None:
    assert accepts_gzip("br," * 40 + "gzip")
    assert not accepts_gzip("br," * 20_000 + "gzip")
    assert accepts_gzip("gzip" + ";a=b" * 20_000 + ";q=0")
