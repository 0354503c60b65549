"""What the dashboard asks Prometheus: the exporter's own series alone, so that no recording rule is needed.

Right with several replicas: each has counters of its own; gauges are shown by one at a time, or by all alike.
https://prometheus.io/docs/prometheus/latest/querying/functions/
"""

from typing import Final

OWN: Final = "spot_interruption_exporter"
CLUSTER: Final = "kubernetes_cluster"
POOL: Final = f"{CLUSTER}, node_pool"
LABEL_SET: Final = f"{POOL}, machine_type, zone"
SIX: Final = f"project, {CLUSTER}, cluster_location, node_pool, zone, machine_type"

# For legends.
BY_CLUSTER: Final = f"{{{{{CLUSTER}}}}}"
BY_POOL: Final = f"{BY_CLUSTER} / {{{{node_pool}}}}"

VARIABLES: Final = {
    "project": "project",
    "cluster": CLUSTER,
    "pool": "node_pool",
    "machine_type": "machine_type",
}
"""The labels that the dashboard's variables choose from, in the order in which they are chained."""

# Series with fewer labels can be chosen by those they have.
CHOSEN: Final = ", ".join(f'{label}=~"${name}"' for name, label in VARIABLES.items())
CHOSEN_PROJECT: Final = 'project=~"$project"'
UNKNOWN: Final = f'{CLUSTER}="unknown"'
CHOSEN_CLUSTER: Final = f'{CLUSTER}=~"$cluster"'
CHOSEN_LIFETIMES: Final = f'{CHOSEN_CLUSTER}, machine_type=~"$machine_type"'

RANGE: Final = "$__range"
WINDOW: Final = "$__rate_interval"
"""A point's interval and one scrape more.

Windows of the interval alone lose what is counted between the last sample of one and the first of the next.
"""


def increase(series: str, by: str = "", over: str = RANGE, chosen: str = CHOSEN) -> str:
    """What a counter, which each replica has for itself, rose by."""
    selector = f"{{{chosen}}}" if chosen else ""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (increase({series}{selector}[{over}]))"


def each_interval(series: str, by: str, chosen: str = CHOSEN) -> str:
    """What it rose by in each interval; these add up to the whole, as increases over windows do not."""
    selector = f"{{{chosen}}}" if chosen else ""
    return f"sum by ({by}) (rate({series}{selector}[{WINDOW}])) * $__interval_ms / 1000"


def instances(by: str = "") -> str:
    """Live Spot instances. One replica shows them at a time; while that changes, two may."""
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (max by ({SIX}) (spot_instances{{{CHOSEN}}}))"


def rate(by: str = "") -> str:
    """Interruptions per 1000 instance-hours; nothing where no instance lived."""
    hours = f"{increase('spot_instance_seconds_total', by)} / 3600"
    return f"1000 * {increase('spot_interruptions_total', by)} / ({hours} > 0)"


def launches(by: str = "") -> str:
    """Spot instances that were created and did not fail."""
    failed = increase("spot_instance_creations_failed_total", by)
    return f"({increase('spot_instances_created_total', by)} - {failed})"


def share(by: str = "") -> str:
    """Interruptions per launch; nothing where there was none."""
    return f"{increase('spot_interruptions_total', by)} / ({launches(by)} > 0)"


def quantile(
    of: float, histogram: str, by: str = "", over: str = RANGE, chosen: str = CHOSEN_LIFETIMES
) -> str:
    """A quantile of what was observed; nothing, rather than NaN, where nothing was."""
    grouping = f"le, {by}" if by else "le"
    return f"histogram_quantile({of}, {increase(f'{histogram}_bucket', grouping, over, chosen)}) >= 0"


def age(series: str, by: str = "", chosen: str = "") -> str:
    """Seconds since a timestamp that every replica may show: the newest counts."""
    selector = f"{{{chosen}}}" if chosen else ""
    grouping = f" by ({by})" if by else ""
    return f"time() - max{grouping} ({series}{selector})"


def highest(expression: str) -> str:
    """The 20 highest, sorted."""
    return f"sort_desc(topk(20, {expression}))"
