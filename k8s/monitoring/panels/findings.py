"""The panels that say what was interrupted, how often, how old, and what there is."""

from collections.abc import Iterator
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
    stacked,
)
from panels.queries import (
    BY_CLUSTER,
    BY_POOL,
    CHOSEN_CLUSTER,
    CHOSEN_LIFETIMES,
    CLUSTER,
    LABEL_SET,
    POOL,
    age,
    each_interval,
    highest,
    increase,
    instances,
    launches,
    quantile,
    rate,
    share,
)

PER_1000_HOURS: Final = "suffix:per 1000 h"
INTERRUPTION_RATE: Final[Steps] = ((None, "green"), (2, "yellow"), (10, "orange"), (25, "red"))
FAILURES: Final[Steps] = ((None, "green"), (1, "yellow"), (10, "orange"))


def overview() -> Iterator[stat.Panel | timeseries.Panel]:
    """What happened, at a glance."""
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
        "Interruptions per 1000 hours that Spot instances lived in the range. At 10, an instance is "
        "interrupted once in 100 hours on average. Fleets of different size compare by this number.",
        PER_1000_HOURS,
        now(rate()),
        empty="no instance lived",
        decimals=1,
        steps=INTERRUPTION_RATE,
    )
    yield figure(
        "Launches interrupted",
        "Interruptions for each launch (creations that did not fail) in the range. Near 100 %, nearly every "
        "instance ends by an interruption; far below, most are scaled down first. What was launched before "
        "the range counts if it was interrupted in it, so that a short range may show more than 100 %.",
        units.PercentUnit,
        now(share()),
        empty="no launch",
        decimals=0,
    )
    yield figure(
        "Median age at interruption",
        "Half of the instances that were interrupted in the range were younger. It says nothing of those "
        "that were not interrupted, so it is no survival time. By cluster and machine type only.",
        units.Seconds,
        now(quantile(0.5, "spot_instance_lifetime_seconds")),
        empty="no interruption",
        decimals=1,
    )
    yield figure(
        "Since the last interruption",
        "Time from the newest interruption's log entry to the end of the range. By cluster only.",
        units.Seconds,
        now(age("spot_last_interruption_timestamp_seconds", chosen=CHOSEN_CLUSTER)),
        empty="none yet",
        decimals=1,
    )
    yield bars(
        chart(
            "Interruptions over time",
            "Interruptions by cluster, a bar an interval; the newest appears when its interval is over. "
            "The marks name the pools.",
            COUNT,
            over_time(each_interval("spot_interruptions_total", CLUSTER), BY_CLUSTER),
            width=24,
            calcs=["sum", "max"],
            empty="no Spot instance is known",
        )
    )


def rates() -> Iterator[bargauge.Panel | table.Panel]:
    """Who is more susceptible."""
    for what, by, legend in (
        ("machine type", "machine_type", "{{machine_type}}"),
        ("zone", "zone", "{{zone}}"),
        ("node pool", POOL, BY_POOL),
    ):
        yield ranking(
            f"Interruption rate by {what}",
            f"Interruptions per 1000 instance-hours in the range, by {what}: the 20 highest. Few hours make "
            "a rough figure; the table below has the hours.",
            PER_1000_HOURS,
            now(highest(rate(by)), legend),
            empty="no instance lived in the range",
            steps=INTERRUPTION_RATE,
            decimals=1,
        )
    yield fleet()


def fleet() -> table.Panel:
    """Every label set with its figures."""
    panel = framed(
        table.Panel(),
        "Clusters, pools, machine types and zones",
        "All figures side by side, of the range but for the instances, which are alive at its end. No rate "
        "where no instance lived, no share where none was launched.",
        COUNT,
        size=(24, 11),
        empty="-",
    )
    labels = {CLUSTER: "Cluster", "node_pool": "Pool", "machine_type": "Machine type", "zone": "Zone"}
    values = {
        "Instances": instances(LABEL_SET),
        "Interruptions": increase("spot_interruptions_total", LABEL_SET),
        "Instance-hours": f"{increase('spot_instance_seconds_total', LABEL_SET)} / 3600",
        "Rate": rate(LABEL_SET),
        "Launches": launches(LABEL_SET),
        "Interrupted": share(LABEL_SET),
        "Failed creations": increase("spot_instance_creations_failed_total", LABEL_SET),
    }
    columns(
        panel, labels, values, above_zero=["Instances", "Interruptions", "Instance-hours", "Failed creations"]
    )
    for count in ("Instances", "Interruptions", "Instance-hours", "Launches", "Failed creations"):
        column(panel, count, COUNT, decimals=0)
    column(panel, "Rate", PER_1000_HOURS, decimals=1, steps=INTERRUPTION_RATE)
    column(panel, "Interrupted", units.PercentUnit, decimals=0)
    return panel.sort_by([common.TableSortByFieldState().display_name("Interruptions").desc(desc=True)])


def lifetimes() -> Iterator[heatmap.Panel | table.Panel]:
    """How old instances become before they are interrupted."""
    lifetime = "spot_instance_lifetime_seconds"
    grid = framed(
        heatmap.Panel(),
        "Age at interruption over time",
        "Interruptions by the instance's age, which begins anew at each start. The stronger the colour, the "
        "more. By cluster and machine type only.",
        units.Seconds,
        size=(16, 9),
        empty="no Spot instance is known",
    )
    grid.with_target(
        over_time(each_interval(f"{lifetime}_bucket", "le", CHOSEN_LIFETIMES), "{{le}}").format(
            PromQueryFormat.HEATMAP
        )
    )
    grid.calculate(calculate=False).max_data_points(BARS_ACROSS // 3).interval("15m").show_legend()
    grid.y_axis(heatmap.YAxisConfig().unit(units.Seconds).axis_placement(shapes.AxisPlacement.LEFT))
    grid.cell_values(heatmap.CellValues().unit(COUNT).decimals(0)).show_y_histogram()
    # Of the schemes that Grafana has, one that goes from the background's side in dark and in light.
    grid.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
    yield grid
    ages = framed(
        table.Panel(),
        "Age at interruption by machine type",
        "Of those that were interrupted in the range: half were younger than the median, nine in ten younger "
        "than p90. It is no survival time. Both are estimated within a histogram's bounds.",
        units.Seconds,
        size=(8, 9),
        empty="-",
    )
    values = {
        "Interrupted": increase(f"{lifetime}_count", "machine_type", chosen=CHOSEN_LIFETIMES),
        "Median": quantile(0.5, lifetime, "machine_type"),
        "p90": quantile(0.9, lifetime, "machine_type"),
    }
    columns(ages, {"machine_type": "Machine type"}, values, above_zero=["Interrupted"])
    column(ages, "Interrupted", COUNT, decimals=0)
    column(ages, "Median", units.Seconds, decimals=1)
    column(ages, "p90", units.Seconds, decimals=1)
    yield ages.sort_by([common.TableSortByFieldState().display_name("Interrupted").desc(desc=True)])


def capacity() -> Iterator[timeseries.Panel | bargauge.Panel]:
    """What there is, and what could not be had."""
    yield stacked(
        chart(
            "Live Spot instances by pool",
            "Spot instances alive, by cluster and node pool.",
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
            "Spot instances that were asked for and not given, for the most part because the zone had none "
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
        "The 20 pairs of machine type and zone in which most creations failed in the range.",
        COUNT,
        now(highest(increase(failed, "machine_type, zone")), "{{machine_type}} in {{zone}}"),
        empty="no Spot instance is known",
        steps=FAILURES,
        decimals=0,
    )
