"""The panels about interruptions and capacity: counts, rates, ages, and live instances."""

from collections.abc import Iterator, Mapping
from typing import Final

from grafana_foundation_sdk.builders import bargauge, common, heatmap, stat, table, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from panels.looks import (
    BARS_ACROSS,
    COUNT,
    Steps,
    bars,
    chart,
    column,
    columns,
    figure,
    framed,
    now,
    over_time,
    ranking,
    rows,
    stacked,
)
from panels.queries import (
    BY_CLUSTER,
    BY_POOL,
    CLUSTER,
    CLUSTER_NAME,
    POOL,
    SIX,
    alerts,
    each_interval,
    highest,
    increase,
    instances,
    launches,
    lifetimes,
    lifetimes_each_interval,
    quantile,
    rate,
    share,
    since_last_interruption,
)

PER_1000_HOURS: Final = "suffix:per 1,000 h"
INTERRUPTION_RATE: Final[Steps] = ((None, "green"), (2, "yellow"), (10, "orange"), (25, "red"))
FAILURES: Final[Steps] = ((None, "green"), (1, "yellow"), (10, "orange"))
ONE_NAME: Final = (
    "The series has no project and no location: clusters of the same name cannot be separated here."
)

IDENTITY: Final = {CLUSTER_NAME: "Cluster", "project": "Project", "cluster_location": "Location"}
LABELS: Final = IDENTITY | {"node_pool": "Pool", "machine_type": "Machine type", "zone": "Zone"}


def overview() -> Iterator[stat.Panel | timeseries.Panel | table.Panel]:
    """Yield the panels at the top: the main figures and the firing alerts."""
    yield figure(
        "Interruptions",
        "Spot instances that were interrupted in the range.",
        COUNT,
        now(increase("spot_interruptions_total")),
        empty="exporter not seen",
        decimals=0,
    )
    yield figure(
        "Live Spot instances",
        "Spot instances that were alive at the end of the range.",
        COUNT,
        now(instances()),
        empty="none known",
        decimals=0,
        steps=((None, "blue"),),
    )
    yield figure(
        "Interruption rate",
        "Interruptions per 1,000 hours of instance life in the range. At 10, an instance is interrupted "
        "once in 100 hours on average. This number makes fleets of different sizes comparable.",
        PER_1000_HOURS,
        now(rate()),
        empty="no instance lived",
        decimals=1,
        steps=INTERRUPTION_RATE,
    )
    yield figure(
        "Launches interrupted",
        "Interruptions per launch in the range. A launch is a creation that did not fail. Near 100 %, nearly "
        "every instance ends by an interruption. Far below, most instances are scaled down first. In a short "
        "range the share may exceed 100 %, because interrupted instances were launched before it.",
        units.PercentUnit,
        now(share()),
        empty="no launch",
        decimals=0,
    )
    yield figure(
        "Median age at interruption",
        "Half of the instances that were interrupted in the range were younger. Instances that were not "
        f"interrupted are not included, so this is not a survival time. {ONE_NAME}",
        units.Seconds,
        now(quantile(0.5, lifetimes("bucket", "le"))),
        empty="no interruption",
        decimals=1,
    )
    yield figure(
        "Since the last interruption",
        f"Time from the log entry of the newest interruption to the end of the range. {ONE_NAME}",
        units.Seconds,
        now(since_last_interruption()),
        empty="none yet",
        decimals=1,
    )
    yield firing()
    yield bars(
        chart(
            "Interruptions over time",
            "Interruptions by cluster, one bar per interval. A bar appears when its interval is over. The "
            "marks name the pools.",
            COUNT,
            over_time(each_interval("spot_interruptions_total", CLUSTER), BY_CLUSTER),
            width=24,
            calcs=["sum", "max"],
            empty="no Spot instance is known",
        )
    )


def firing() -> table.Panel:
    """Return the table of the firing alerts."""
    labels = {"alertname": "Alert", "severity": "Severity"} | LABELS
    labels |= {"endpoint": "Endpoint", "reason": "Reason"}
    panel = framed(
        table.Panel(),
        "Firing alerts",
        "The alerts of the exporter that fire at the end of the range. This needs the alerting rules of "
        "this repository in the same data source (series ALERTS). The runbook, linked at the top, describes "
        "each alert.",
        COUNT,
        size=(24, 6),
        empty="no alert fires",
    )
    rows(panel, labels, alerts(", ".join(labels)))
    return panel.sort_by([common.TableSortByFieldState().display_name("Severity").desc(desc=False)])


def rates() -> Iterator[bargauge.Panel | table.Panel]:
    """Yield the panels that compare interruption rates."""
    yield fleet("Clusters", IDENTITY, CLUSTER, height=8)
    for what, by, legend in (
        ("machine type", "machine_type", "{{machine_type}}"),
        ("zone", "zone", "{{zone}}"),
        ("node pool", POOL, BY_POOL),
    ):
        yield ranking(
            f"Interruption rate by {what}",
            f"Interruptions per 1,000 instance-hours in the range, by {what}: the 20 highest. A rate from "
            "few hours is not reliable; the tables have the hours.",
            PER_1000_HOURS,
            now(highest(rate(by)), legend),
            empty="no instance lived in the range",
            steps=INTERRUPTION_RATE,
            decimals=1,
        )
    yield fleet("Clusters, pools, machine types and zones", LABELS, SIX, height=11)


def fleet(title: str, labels: Mapping[str, str], by: str, *, height: int) -> table.Panel:
    """Return a table with all figures of each cluster, or of each label set."""
    panel = framed(
        table.Panel(),
        title,
        "A cluster is identified by its name, project and location. The figures are of the range; "
        "instances are those alive at its end. There is no rate if no instance lived, and no share if "
        "none was launched.",
        COUNT,
        size=(24, height),
        empty="-",
    )
    values = {
        "Instances": instances(by),
        "Interruptions": increase("spot_interruptions_total", by),
        "Instance-hours": f"{increase('spot_instance_seconds_total', by)} / 3600",
        "Rate": rate(by),
        "Launches": launches(by),
        "Interrupted": share(by),
        "Failed creations": increase("spot_instance_creations_failed_total", by),
    }
    columns(
        panel, labels, values, above_zero=["Instances", "Interruptions", "Instance-hours", "Failed creations"]
    )
    for count in ("Instances", "Interruptions", "Instance-hours", "Launches", "Failed creations"):
        column(panel, count, COUNT, decimals=0)
    column(panel, "Rate", PER_1000_HOURS, decimals=1, steps=INTERRUPTION_RATE)
    column(panel, "Interrupted", units.PercentUnit, decimals=0)
    return panel.sort_by([common.TableSortByFieldState().display_name("Interruptions").desc(desc=True)])


def ages() -> Iterator[heatmap.Panel | table.Panel]:
    """Yield the panels about the age at interruption."""
    grid = framed(
        heatmap.Panel(),
        "Age at interruption over time",
        "Interruptions by the age of the instance. The age starts at 0 at each start of the instance. A "
        f"stronger colour means more interruptions. {ONE_NAME}",
        units.Seconds,
        size=(16, 9),
        empty="no Spot instance is known",
    )
    grid.with_target(over_time(lifetimes_each_interval(), "{{le}}").format(PromQueryFormat.HEATMAP))
    grid.calculate(calculate=False).max_data_points(BARS_ACROSS // 3).interval("15m").show_legend()
    grid.y_axis(heatmap.YAxisConfig().unit(units.Seconds).axis_placement(shapes.AxisPlacement.LEFT))
    grid.cell_values(heatmap.CellValues().unit(COUNT).decimals(0)).show_y_histogram()
    # A colour scheme of Grafana that begins near the background in the dark and in the light theme.
    grid.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
    yield grid
    by_type = framed(
        table.Panel(),
        "Age at interruption by machine type",
        "Ages of the instances that were interrupted in the range: half were younger than the median, 90 "
        "% were younger than p90. Both are estimates within the bounds of a histogram, and not survival "
        f"times. {ONE_NAME}",
        units.Seconds,
        size=(8, 9),
        empty="-",
    )
    buckets = lifetimes("bucket", "le, machine_type")
    values = {
        "Interrupted": lifetimes("count", "machine_type"),
        "Median": quantile(0.5, buckets),
        "p90": quantile(0.9, buckets),
    }
    columns(by_type, {"machine_type": "Machine type"}, values, above_zero=["Interrupted"])
    column(by_type, "Interrupted", COUNT, decimals=0)
    column(by_type, "Median", units.Seconds, decimals=1)
    column(by_type, "p90", units.Seconds, decimals=1)
    yield by_type.sort_by([common.TableSortByFieldState().display_name("Interrupted").desc(desc=True)])


def capacity() -> Iterator[timeseries.Panel | bargauge.Panel]:
    """Yield the panels about live instances and failed creations."""
    yield stacked(
        chart(
            "Live Spot instances by pool",
            "Spot instances that are alive, by cluster and node pool.",
            COUNT,
            over_time(instances(POOL), BY_POOL),
            width=8,
            calcs=["lastNotNull", "max"],
            empty="no Spot instance is known",
        ).decimals(0),
        opacity=30,
    )
    failed = "spot_instance_creations_failed_total"
    yield bars(
        chart(
            "Failed creations by zone",
            "Spot instances that could not be created. The usual reason is that the zone had no capacity "
            "left (stock-out).",
            COUNT,
            over_time(each_interval(failed, "zone"), "{{zone}}"),
            width=8,
            calcs=["sum", "max"],
            empty="no Spot instance is known",
        )
    )
    yield ranking(
        "Failed creations by machine type and zone",
        "The 20 pairs of machine type and zone with the most failed creations in the range.",
        COUNT,
        now(highest(increase(failed, "machine_type, zone")), "{{machine_type}} in {{zone}}"),
        empty="no Spot instance is known",
        steps=FAILURES,
        decimals=0,
    )
