"""The queries of the dashboard. They read the exporter's own series, and do not need recording rules.

They are correct with several replicas: each replica has its own counters, and a gauge is shown by one replica
at a time or with the same value by all. https://prometheus.io/docs/prometheus/latest/querying/functions/
"""

from typing import Final

OWN: Final = "spot_interruption_exporter"
CLUSTER_NAME: Final = "kubernetes_cluster"
CLUSTER: Final = f"project, {CLUSTER_NAME}, cluster_location"
"""The name of a cluster is unique only in its project and location, so queries group by all three."""
POOL: Final = f"{CLUSTER}, node_pool"
SIX: Final = f"{POOL}, zone, machine_type"

# For legends.
BY_CLUSTER: Final = f"{{{{{CLUSTER_NAME}}}}} ({{{{project}}}}, {{{{cluster_location}}}})"
BY_POOL: Final = f"{{{{{CLUSTER_NAME}}}}} / {{{{node_pool}}}} ({{{{project}}}}, {{{{cluster_location}}}})"
BY_REPLICA: Final = "{{instance}} {{namespace}}"

VARIABLES: Final = {
    "job": "job",
    "namespace": "namespace",
    "project": "project",
    "cluster": CLUSTER_NAME,
    "location": "cluster_location",
    "pool": "node_pool",
    "zone": "zone",
    "machine_type": "machine_type",
}
"""The label that each variable of the dashboard chooses from.

A variable offers only values that match the variables before it.
The first two are labels of the exporter's scrape target. The others are labels of the instances.
"""


def _chosen(*names: str) -> str:
    return ", ".join(f'{VARIABLES[name]}=~"${name}"' for name in names)


# A selector uses the variables for whose labels the series has a value.
EXPORTER: Final = _chosen("job", "namespace")
CHOSEN: Final = _chosen(*VARIABLES)
CHOSEN_PROJECT: Final = _chosen("job", "namespace", "project")
CHOSEN_NAME: Final = _chosen("job", "namespace", "cluster")
CHOSEN_LIFETIMES: Final = _chosen("job", "namespace", "cluster", "machine_type")
UNKNOWN: Final = f'{EXPORTER}, {CLUSTER_NAME}="unknown"'

RANGE: Final = "$__range"
WINDOW: Final = "$__rate_interval"
"""The interval of a point and one scrape more.

A window of the interval alone loses what is counted between its last sample and the first sample of the next.
"""


def increase(series: str, by: str = "", over: str = RANGE, chosen: str = CHOSEN) -> str:
    """Return the increase of a counter, summed over the replicas."""
    return f"sum{_grouping(by)} (increase({series}{{{chosen}}}[{over}]))"


def each_interval(series: str, by: str, chosen: str = CHOSEN) -> str:
    """Return the increase in each interval. The intervals add up, unlike increases over windows."""
    return f"sum{_grouping(by)} (rate({series}{{{chosen}}}[{WINDOW}])) * $__interval_ms / 1000"


def lifetimes(part: str, by: str = "") -> str:
    """Return the increase of a part of the lifetime histogram."""
    series = f"increase(spot_instance_lifetime_seconds_{part}{{{CHOSEN_LIFETIMES}}}[{RANGE}])"
    return f"sum{_grouping(by)} ({_of_chosen(series, f'{CLUSTER_NAME}, machine_type', RANGE)})"


def lifetimes_each_interval() -> str:
    """Return the buckets of the lifetime histogram in each interval."""
    series = f"rate(spot_instance_lifetime_seconds_bucket{{{CHOSEN_LIFETIMES}}}[{WINDOW}])"
    chosen = _of_chosen(series, f"{CLUSTER_NAME}, machine_type", WINDOW)
    return f"sum by (le) ({chosen}) * $__interval_ms / 1000"


def since_last_interruption() -> str:
    """Return the seconds since the newest interruption."""
    series = f"spot_last_interruption_timestamp_seconds{{{CHOSEN_NAME}}}"
    return f"time() - max({_of_chosen(series, CLUSTER_NAME, RANGE)})"


def _of_chosen(expression: str, on: str, over: str) -> str:
    # These series have no project, location, pool and zone. A choice of those limits them to the names and
    # machine types that are in it.
    return f"{expression} and on ({on}) last_over_time(spot_interruptions_total{{{CHOSEN}}}[{over}])"


def instances(by: str = "") -> str:
    """Return the live Spot instances. One replica shows them at a time; during a change, two may."""
    return f"sum{_grouping(by)} (max by ({SIX}) (spot_instances{{{CHOSEN}}}))"


def rate(by: str = "") -> str:
    """Return the interruptions per 1,000 instance-hours; no value if no instance lived."""
    hours = f"{increase('spot_instance_seconds_total', by)} / 3600"
    return f"1000 * {increase('spot_interruptions_total', by)} / ({hours} > 0)"


def launches(by: str = "") -> str:
    """Return how many Spot instances were created and did not fail."""
    failed = increase("spot_instance_creations_failed_total", by)
    return f"({increase('spot_instances_created_total', by)} - {failed})"


def share(by: str = "") -> str:
    """Return the interruptions per launch; nothing if there was no launch."""
    return f"{increase('spot_interruptions_total', by)} / ({launches(by)} > 0)"


def quantile(of: float, buckets: str) -> str:
    """Return a quantile of observations; no value, instead of NaN, if there was no observation."""
    return f"histogram_quantile({of}, {buckets}) >= 0"


def pending() -> str:
    """Return the pending interruptions. All replicas of an installation show the same number."""
    return f"sum(max by (job, namespace) ({OWN}_pending_interruptions{{{EXPORTER}}}))"


def age(series: str, by: str = "", chosen: str = EXPORTER) -> str:
    """Return the seconds since a timestamp. Several replicas may show it; the newest counts."""
    return f"time() - max{_grouping(by)} ({series}{{{chosen}}})"


def highest(expression: str) -> str:
    """Return the 20 highest, sorted."""
    return f"sort_desc(topk(20, {expression}))"


def process(function: str, series: str, over: str) -> str:
    """Return a function of a series of the exporter's process, for each replica.

    Every process that is scraped may have such series, so those of other programs are left out.
    """
    build = f"last_over_time({OWN}_build_info{{{EXPORTER}}}[{over}])"
    return f"{function}({series}{{{EXPORTER}}}[{over}]) and on (job, namespace, instance) {build}"


def alerts(by: str) -> str:
    """Return the firing alerts. An alert is left out only if it has a label that contradicts the choice."""
    chosen = ", ".join(f'{label}=~"${name}|"' for name, label in VARIABLES.items())
    ours = 'alertname=~"Spot(Pool|Zone|Interruption).+"'
    return f'max by ({by}) (ALERTS{{alertstate="firing", {ours}, {chosen}}})'


def _grouping(by: str) -> str:
    return f" by ({by})" if by else ""
