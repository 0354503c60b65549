"""Values that are known to break parsers, stores and pages."""

import json
from typing import Any, Final

LIMIT: Final = 512
"""The maximum length of a name or a label."""
FORBIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cs"})
"""Unicode categories that no name may contain: control characters and lone surrogates."""

TEXTS: Final = (
    "",
    " ",
    "\x00",
    "tills\x00",
    "tills\n",
    "tills\r\nx-injected: 1",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "\ud800",
    "\udfff\ud800",
    "tills\ud83d",
    'ti"lls',
    "ti\\lls",
    "ti\\nlls",
    "ti{lls}",
    'ti",kubernetes_cluster="ovens',
    "'; DROP TABLE instances; --",
    "%s%n%00",
    "{0.__class__}",
    "${jndi:ldap://x}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "\u202etills",
    "\u2066tills\u2069",
    "t\u0456lls",
    "till\u0301s",
    "TILLS",
    "\ufefftills",
    "\u2028",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\uffff",
    "\U0010ffff",
    "١٢٣",
    "null",
    "NaN",
    "unknown",
    "other",
    "0",
    "c" * LIMIT,
    "c" * (LIMIT + 1),
    "\U0001f600" * LIMIT,
    "\u202e" * (LIMIT + 1),
    "x" * 20_000,
)

DEEP: Final = 400
"""Nesting levels: more than any entry has, and few enough for Python's JSON encoder."""


def nested_lists(levels: int = DEEP) -> Any:  # noqa: ANN401  # nested as it is
    """Return nested lists."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    0.1,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    {},
    [[]],
    [{}],
    [None],
    {"": None},
    {"key": "goog-k8s-cluster-name"},
    nested_lists(),
    *TEXTS,
)


def fresh(value: Any) -> Any:  # noqa: ANN401  # JSON
    """Return the value, or a copy that a mutation may change."""
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


TIMES: Final = (
    "yesterday",
    "",
    "2026-03-02",
    "2026-W10-1",
    "2026-03-02T11:40:55",
    "2026-03-02T11:40:55.3081141234567890Z",
    "2026-03-02t11:40:55z",
    "2026-03-02T11:40:55+24:00",
    "2026-03-02T11:40:55-23:59",
    "2026-03-02T24:00:00Z",
    "2026-03-02T23:59:60Z",
    "2026-02-30T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999999-14:00",
    "9998-12-31T23:59:59Z",
    "10000-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "2026-03-02T11:40:55Z\x00",
    "٢٠٢٦-03-02T11:40:55Z",
    "1772451656",
    1772451656,
    1e300,
)

METHODS: Final = (
    "compute.instances.preempted",
    "v1.compute.instances.preempted",
    "v1.compute.instances.insert",
    "beta.compute.instances.insert",
    "alpha.compute.instances.insert",
    ".compute.instances.insert",
    "v1.v1.compute.instances.insert",
    "compute.instances.insert ",
    "Compute.Instances.Insert",
    "compute.instances.preempted\x00",
    "compute.instances.bulkInsert",
    "compute.instances.delete",
    "v1.",
    ".",
    "compute.instances.pr\u0435empted",
)

NAMES: Final = (
    "projects/p/zones/z/instances/n",
    "//compute.googleapis.com/projects/p/zones/z/instances/n",
    "https://www.googleapis.com/compute/v1/projects/p/zones/z/instances/n",
    "projects/123456789/zones/z/instances/n",
    "projects/example.com:p/zones/z/instances/n",
    "projects/p/zones/z/instances/",
    "projects//zones//instances//",
    "projects/p/zones/z",
    "projects/p/zones/z/instances/n/",
    "projects/p/zones/z/disks/n",
    "projects/../zones/../instances/..",
    "projects/p/zones/z/instances/n\n",
    "projects/p/zones/z/instances/" + "n" * (LIMIT + 1),
    "projects/٤/zones/z/instances/n",
    "/" * 5000,
)
