"""The looks of the dashboard's panels: each kind of panel, with its defaults.

https://grafana.github.io/grafana-foundation-sdk/
"""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

P = TypeVar("P", stat.Panel, timeseries.Panel, bargauge.Panel, table.Panel, heatmap.Panel)
Steps = Sequence[tuple[float | None, str]]
"""The lowest value of each colour; None for the first colour."""

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
BARS_ACROSS: Final = 168
"""The number of bars in a week: one per hour."""

# The other units for counts shorten 1927 to "2 K".
COUNT: Final = units.LocaleFormat
PLAIN: Final[Steps] = ((None, "text"),)
_FULL_WIDTH: Final = 24
# Grafana's names of the calculations in a legend.
_CALCULATIONS: Final = {"sum": "Total", "lastNotNull": "Last *", "max": "Max"}


def now(expression: str, legend: str = "", ref_id: str = "A") -> prometheus.Dataquery:
    """Return a query for the value at the end of the dashboard's range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref_id).instant()


def over_time(expression: str, legend: str = "", ref_id: str = "A") -> prometheus.Dataquery:
    """Return a query for the values over the dashboard's range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(ref_id).range()


def framed(panel: P, title: str, description: str, unit: str, *, size: tuple[int, int], empty: str) -> P:
    """Set the title, unit and size (width, height) of a panel, and its text without data."""
    width, height = size
    panel.title(title).description(description).unit(unit).no_value(empty)
    return panel.datasource(SOURCE).span(width).height(height)


def coloured(panel: P, steps: Steps) -> P:
    """Colour the panel by value. The names are Grafana's, which fit its dark and light themes."""
    thresholds = [model.Threshold(value=value, color=colour) for value, colour in steps]
    panel.thresholds(
        dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds)
    ).color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    return panel


def figure(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    empty: str,
    steps: Steps = PLAIN,
    decimals: int | None = None,
    height: int = 4,
) -> stat.Panel:
    """Return a panel with a number for each series of a query."""
    panel = framed(stat.Panel(), title, description, unit, size=(4, height), empty=empty)
    coloured(panel, steps).graph_mode(shapes.BigValueGraphMode.NONE)
    panel.color_mode(shapes.BigValueColorMode.VALUE).justify_mode(shapes.BigValueJustifyMode.AUTO)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields(""))
    if decimals is not None:
        panel.decimals(decimals)
    return panel.targets(list(queries))


def chart(
    title: str,
    description: str,
    unit: str,
    *queries: prometheus.Dataquery,
    width: int,
    calcs: Sequence[str],
    empty: str,
) -> timeseries.Panel:
    """Return lines over time, with a legend that is sorted by its first figure."""
    panel = framed(timeseries.Panel(), title, description, unit, size=(width, 9), empty=empty)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    panel.min(0).axis_soft_max(1).line_width(1).show_points(shapes.VisibilityMode.AUTO)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(show_legend=True)
        .display_mode(shapes.LegendDisplayMode.TABLE)
        .placement(shapes.LegendPlacement.RIGHT if width == _FULL_WIDTH else shapes.LegendPlacement.BOTTOM)
        .calcs(list(calcs))
        .sort_by(_CALCULATIONS[calcs[0]])
        .sort_desc(sort_desc=True)
    )
    panel.tooltip(
        common.VizTooltipOptions()
        .mode(shapes.TooltipDisplayMode.MULTI)
        .sort(shapes.SortOrder.DESCENDING)
        .hide_zeros(hide_zeros=True)
    )
    return panel.targets(list(queries))


def stacked(panel: timeseries.Panel, opacity: int) -> timeseries.Panel:
    """Draw the series on top of each other."""
    stacking = common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A")
    return panel.stacking(stacking).fill_opacity(opacity)


def bars(panel: timeseries.Panel) -> timeseries.Panel:
    """Draw a bar per interval, for counts of rare events. A bar ends at the end of its interval."""
    panel.draw_style(shapes.GraphDrawStyle.BARS).bar_alignment(shapes.BarAlignment.BEFORE)
    panel.max_data_points(BARS_ACROSS).interval("5m").decimals(0)
    return stacked(panel, 80)


def ranking(
    title: str,
    description: str,
    unit: str,
    query: prometheus.Dataquery,
    *,
    empty: str,
    steps: Steps,
    decimals: int,
) -> bargauge.Panel:
    """Return horizontal bars, sorted by length."""
    panel = framed(bargauge.Panel(), title, description, unit, size=(8, 9), empty=empty)
    coloured(panel, steps).min(0).decimals(decimals)
    panel.orientation(shapes.VizOrientation.HORIZONTAL).display_mode(shapes.BarGaugeDisplayMode.GRADIENT)
    panel.value_mode(shapes.BarGaugeValueMode.COLOR).show_unfilled(show_unfilled=True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False).fields(""))
    return panel.with_target(query)


def columns(
    panel: table.Panel, labels: Mapping[str, str], values: Mapping[str, str], *, above_zero: Sequence[str]
) -> table.Panel:
    """Fill a table from queries with the same grouping.

    `labels` has the column name of each label, `values` the query of each other column. A row is shown if a
    column of `above_zero` is above 0.
    """
    ids = dict(zip(values, ascii_uppercase, strict=False))
    for name, expression in values.items():
        panel.with_target(now(expression, ref_id=ids[name]).format(PromQueryFormat.TABLE))
    names = dict(labels) | {f"Value #{ref_id}": name for name, ref_id in ids.items()}
    arranged = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(names)},
        "renameByName": names,
    }
    greater = {"id": "greater", "options": {"value": 0}}
    alive = {
        "type": "include",
        "match": "any",
        "filters": [{"fieldName": name, "config": greater} for name in above_zero],
    }
    for transformation, options in (("merge", {}), ("organize", arranged), ("filterByValue", alive)):
        panel.with_transformation(model.DataTransformerConfig(id_val=transformation, options=options))
    panel.show_header(show_header=True).cell_height(shapes.TableCellHeight.SM)
    return panel.filterable(filterable=True)


def rows(panel: table.Panel, labels: Mapping[str, str], expression: str) -> table.Panel:
    """Show the labels of each series of a query, without its value."""
    panel.with_target(now(expression).format(PromQueryFormat.TABLE))
    arranged = {
        "excludeByName": {"Time": True, "Value": True, "Value #A": True},
        "indexByName": {name: place for place, name in enumerate(labels)},
        "renameByName": dict(labels),
    }
    panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=arranged))
    panel.show_header(show_header=True).cell_height(shapes.TableCellHeight.SM)
    return panel.filterable(filterable=True)


def column(
    panel: table.Panel, name: str, unit: str, *, decimals: int | None = None, steps: Steps | None = None
) -> None:
    """Set the unit of a column and, if it has steps, its colours."""
    properties = [model.DynamicConfigValue(id_val="unit", value=unit)]
    if decimals is not None:
        properties.append(model.DynamicConfigValue(id_val="decimals", value=decimals))
    if steps is not None:
        cell = shapes.TableColoredBackgroundCellOptions(mode=shapes.TableCellBackgroundDisplayMode.GRADIENT)
        levels = [{"value": value, "color": colour} for value, colour in steps]
        thresholds = {"mode": "absolute", "steps": levels}
        properties += [
            model.DynamicConfigValue(id_val="custom.cellOptions", value=cell),
            model.DynamicConfigValue(id_val="color", value={"mode": "thresholds"}),
            model.DynamicConfigValue(id_val="thresholds", value=thresholds),
        ]
    panel.override_by_name(name, properties)
