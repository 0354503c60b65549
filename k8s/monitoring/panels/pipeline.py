"""The panels about the exporter itself: the completeness of its figures, and its use of resources."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import units

from panels.looks import BARS_ACROSS, COUNT, bars, chart, figure, now, over_time
from panels.queries import (
    BY_REPLICA,
    CHOSEN_PROJECT,
    EXPORTER,
    OWN,
    RANGE,
    UNKNOWN,
    WINDOW,
    age,
    each_interval,
    increase,
    pending,
    process,
    quantile,
)


def pipeline() -> Iterator[stat.Panel | timeseries.Panel]:
    """Yield the panels that show whether events arrive, are accepted and are attributed."""
    yield figure(
        "Since the last push",
        "Time since the newest authentic push to each endpoint. How long is too long depends on how often "
        "the fleet changes.",
        units.Seconds,
        now(age(f"{OWN}_last_push_timestamp_seconds", "endpoint"), "{{endpoint}}"),
        empty="no push yet",
        decimals=1,
    )
    yield figure(
        "Pushes refused",
        "Pushes in the range that were not answered with 200. Pub/Sub sends them again.",
        COUNT,
        now(increase(f"{OWN}_push_errors_total", chosen=EXPORTER)),
        empty="exporter not seen",
        decimals=0,
        steps=((None, "green"), (1, "yellow"), (100, "red")),
    )
    yield figure(
        "Pending interruptions",
        "Interruptions of instances that the exporter does not know yet. It counts them when a creation or a "
        "fleet listing names the instance, or under the cluster `unknown` when the grace period ends.",
        COUNT,
        now(pending()),
        empty="exporter not seen",
        decimals=0,
        steps=((None, "green"), (1, "yellow"), (50, "red")),
    )
    yield figure(
        "Counted as unknown",
        "Share of all interruptions in the range that were counted without a cluster, across all projects.",
        units.PercentUnit,
        now(
            f"{increase('spot_interruptions_total', chosen=UNKNOWN)}"
            f" / ({increase('spot_interruptions_total', chosen=EXPORTER)} > 0)"
        ),
        empty="no interruption",
        decimals=1,
        steps=((None, "green"), (0.01, "yellow"), (0.1, "red")),
    )
    yield figure(
        "Oldest fleet listing",
        "Age of the newest complete fleet listing, for the project where it is oldest.",
        units.Seconds,
        now(f"max({age(f'{OWN}_inventory_last_success_timestamp_seconds', 'project', CHOSEN_PROJECT)})"),
        empty="no listing yet",
        decimals=0,
        steps=((None, "green"), (1800, "yellow"), (3600, "red")),
    )
    yield figure(
        "Replicas by version",
        "Exporters that were scraped at the end of the range, by their version.",
        COUNT,
        now(f"count by (version) ({OWN}_build_info{{{EXPORTER}}})", "{{version}}"),
        empty="exporter not seen",
    ).text_mode(shapes.BigValueTextMode.VALUE_AND_NAME)
    yield from traffic()
    yield from condition()


def traffic() -> Iterator[timeseries.Panel]:
    """Yield the panels about pushes, and about pushes that did not come."""
    yield bars(
        chart(
            "Pushes by outcome",
            "Pushes that were answered with 200, by outcome. Their effect is durable.",
            COUNT,
            over_time(each_interval(f"{OWN}_push_messages_total", "outcome", EXPORTER), "{{outcome}}"),
            width=6,
            calcs=["sum", "max"],
            empty="exporter not seen",
        )
    )
    yield bars(
        chart(
            "Pushes refused by reason",
            "Pushes that were not answered with 200, by reason. Pub/Sub sends them again.",
            COUNT,
            over_time(each_interval(f"{OWN}_push_errors_total", "reason", EXPORTER), "{{reason}}"),
            width=6,
            calcs=["sum", "max"],
            empty="exporter not seen",
        )
    )
    yield bars(
        chart(
            "Recovered interruptions",
            "Interruptions that were counted from the list of operations, because no push had come, by "
            "project. The counts are complete, but pushes are missed.",
            COUNT,
            over_time(
                each_interval(f"{OWN}_recovered_interruptions_total", "project", CHOSEN_PROJECT),
                "{{project}}",
            ),
            width=6,
            calcs=["sum", "max"],
            empty="recovery is off",
        )
    )
    delays = increase(f"{OWN}_event_delay_seconds_bucket", "le, endpoint", WINDOW, EXPORTER)
    yield (
        chart(
            "Event delay",
            "Time from the log timestamp of an event to its commit, by endpoint: median and p99 per "
            "interval.",
            units.Seconds,
            over_time(quantile(0.5, delays), "{{endpoint}} median", "A"),
            over_time(quantile(0.99, delays), "{{endpoint}} p99", "B"),
            width=6,
            calcs=["max", "lastNotNull"],
            empty="no event in the range",
        )
        .draw_style(shapes.GraphDrawStyle.POINTS)
        .show_points(shapes.VisibilityMode.ALWAYS)
        .point_size(5)
        .max_data_points(BARS_ACROSS)
        .interval("5m")
    )


def condition() -> Iterator[timeseries.Panel]:
    """Yield the panels about the exporter's work over time."""
    yield chart(
        "Pending interruptions over time",
        "Interruptions of instances that the exporter does not know yet.",
        COUNT,
        over_time(pending(), "pending"),
        width=8,
        calcs=["lastNotNull", "max"],
        empty="exporter not seen",
    ).decimals(0)
    yield chart(
        "Age of the fleet listing",
        "Time since the newest complete fleet listing of each project.",
        units.Seconds,
        over_time(
            age(f"{OWN}_inventory_last_success_timestamp_seconds", "project", CHOSEN_PROJECT), "{{project}}"
        ),
        width=8,
        calcs=["lastNotNull", "max"],
        empty="no listing yet",
    )
    commits = increase(f"{OWN}_store_commit_seconds_bucket", "le", WINDOW, EXPORTER)
    yield (
        chart(
            "Store commits",
            "Duration of a commit: median and p99 per interval. A push is answered after its commit.",
            units.Seconds,
            over_time(quantile(0.5, commits), "median", "A"),
            over_time(quantile(0.99, commits), "p99", "B"),
            width=8,
            calcs=["max", "lastNotNull"],
            empty="no commit in the range",
        )
        .axis_soft_max(0.01)
        .max_data_points(BARS_ACROSS)
        .interval("5m")
    )


def resources() -> Iterator[stat.Panel | timeseries.Panel]:
    """Yield the panels about the exporter's process."""
    yield chart(
        "Memory",
        "Resident memory of each replica, without the child process that lists the fleet.",
        units.BytesIEC,
        over_time(process("max_over_time", "process_resident_memory_bytes", WINDOW), BY_REPLICA),
        width=10,
        calcs=["max", "lastNotNull"],
        empty="exporter not seen",
    )
    yield (
        chart(
            "Processor",
            "Processor time of each replica, as a share of one core.",
            units.PercentUnit,
            over_time(process("rate", "process_cpu_seconds_total", WINDOW), BY_REPLICA),
            width=10,
            calcs=["max", "lastNotNull"],
            empty="exporter not seen",
        )
        # The process uses at most about one core. An idle process should not fill the panel.
        .axis_soft_max(0.1)
    )
    yield figure(
        "Restarts",
        "Starts of each replica in the range after its first scrape in it. Counters continue where they "
        "were.",
        COUNT,
        now(process("changes", "process_start_time_seconds", RANGE), BY_REPLICA),
        empty="exporter not seen",
        decimals=0,
        steps=((None, "green"), (1, "yellow"), (5, "red")),
        height=9,
    ).text_mode(shapes.BigValueTextMode.VALUE_AND_NAME)
