"""The panels that say whether the figures can be believed."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders import stat, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import units

from panels.looks import BARS_ACROSS, COUNT, bars, chart, figure, now, over_time
from panels.queries import CHOSEN_PROJECT, OWN, UNKNOWN, WINDOW, age, each_interval, increase, quantile


def pipeline() -> Iterator[stat.Panel | timeseries.Panel]:
    """Whether the figures above can be believed."""
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
        "Pushes in the range that were answered anything but 200, and will be sent again.",
        COUNT,
        now(increase(f"{OWN}_push_errors_total", chosen="")),
        empty="exporter not seen",
        decimals=0,
        steps=((None, "green"), (1, "yellow"), (100, "red")),
    )
    yield figure(
        "Waiting",
        "Interruptions whose instance is not known yet. They are counted when a creation or a listing "
        "explains it, and after the grace period as `unknown`.",
        COUNT,
        now(f"max({OWN}_pending_interruptions)"),
        empty="exporter not seen",
        decimals=0,
        steps=((None, "green"), (1, "yellow"), (50, "red")),
    )
    yield figure(
        "Counted as unknown",
        "Share of all interruptions in the range that were counted without a cluster. Of all projects.",
        units.PercentUnit,
        now(
            f"{increase('spot_interruptions_total', chosen=UNKNOWN)}"
            f" / ({increase('spot_interruptions_total', chosen='')} > 0)"
        ),
        empty="no interruption",
        decimals=1,
        steps=((None, "green"), (0.01, "yellow"), (0.1, "red")),
    )
    yield figure(
        "Oldest fleet listing",
        "Time since the moment for which the newest complete listing speaks, of the project that is furthest "
        "behind.",
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
        now(f"count by (version) ({OWN}_build_info)", "{{version}}"),
        empty="exporter not seen",
    ).text_mode(shapes.BigValueTextMode.VALUE_AND_NAME)
    yield from traffic()
    yield from condition()


def traffic() -> Iterator[timeseries.Panel]:
    """What came in."""
    yield bars(
        chart(
            "Pushes by outcome",
            "Pushes that were answered 200, by what became of them. That is when their effect is durable.",
            COUNT,
            over_time(each_interval(f"{OWN}_push_messages_total", "outcome", ""), "{{outcome}}"),
            width=8,
            calcs=["sum", "max"],
            empty="exporter not seen",
        )
    )
    yield bars(
        chart(
            "Pushes refused by reason",
            "Pushes that were answered anything but 200, by reason. Pub/Sub sends them again.",
            COUNT,
            over_time(each_interval(f"{OWN}_push_errors_total", "reason", ""), "{{reason}}"),
            width=8,
            calcs=["sum", "max"],
            empty="exporter not seen",
        )
    )
    delay = f"{OWN}_event_delay_seconds"
    yield (
        chart(
            "Event delay",
            "Time from an event's log timestamp to its commit, by endpoint: median and p99 of an interval.",
            units.Seconds,
            over_time(quantile(0.5, delay, "endpoint", WINDOW, ""), "{{endpoint}} median", "A"),
            over_time(quantile(0.99, delay, "endpoint", WINDOW, ""), "{{endpoint}} p99", "B"),
            width=8,
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
    """How the exporter itself is."""
    yield chart(
        "Waiting interruptions",
        "Interruptions that wait for something to explain their instance.",
        COUNT,
        over_time(f"max({OWN}_pending_interruptions)", "waiting"),
        width=8,
        calcs=["lastNotNull", "max"],
        empty="exporter not seen",
    ).decimals(0)
    yield chart(
        "Age of the fleet listing",
        "Time since the moment for which each project's newest complete listing speaks.",
        units.Seconds,
        over_time(
            age(f"{OWN}_inventory_last_success_timestamp_seconds", "project", CHOSEN_PROJECT), "{{project}}"
        ),
        width=8,
        calcs=["lastNotNull", "max"],
        empty="no listing yet",
    )
    commit = f"{OWN}_store_commit_seconds"
    yield (
        chart(
            "Store commits",
            "Duration of a commit, which is what a push waits for: the median and p99 of an interval.",
            units.Seconds,
            over_time(quantile(0.5, commit, over=WINDOW, chosen=""), "median", "A"),
            over_time(quantile(0.99, commit, over=WINDOW, chosen=""), "p99", "B"),
            width=8,
            calcs=["max", "lastNotNull"],
            empty="no commit in the range",
        )
        .axis_soft_max(0.01)
        .max_data_points(BARS_ACROSS)
        .interval("5m")
    )
