"""Print the Grafana dashboard: `python k8s/monitoring/dashboard.py > k8s/monitoring/dashboard.json`.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""  # noqa: INP001  # a script

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import table
from panels.findings import ages, capacity, overview, rates
from panels.looks import SOURCE
from panels.pipeline import pipeline, resources
from panels.queries import BY_POOL, POOL, VARIABLES, WINDOW, increase
from render import RUNBOOK

Variable: TypeAlias = dashboard.DatasourceVariable | dashboard.QueryVariable | dashboard.TextBoxVariable


def variables() -> Iterator[Variable]:
    """Yield the variables at the top. Each variable offers only values that match the variables before it."""
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    matchers: list[str] = []
    for name, label in VARIABLES.items():
        selector = f"{{{', '.join(matchers)}}}" if matchers else ""
        query = f"label_values(spot_interruptions_total{selector}, {label})"
        yield (
            dashboard.QueryVariable(name)
            .label(name.replace("_", " ").capitalize())
            .datasource(SOURCE)
            .query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            # This also matches series without the label, such as `namespace` outside of Kubernetes. A list of
            # all values could become too long.
            .all_value(".*")
            .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
        matchers.append(f'{label}=~"${name}"')
    # The address of the status page depends on the network, and no series has it.
    page = "http://127.0.0.1:8090/"
    yield (
        dashboard.TextBoxVariable("page")
        .label("Status page")
        .default_value(page)
        .current(model.VariableOption(selected=True, text=page, value=page))
    )


def links() -> Iterator[dashboard.DashboardLink]:
    """Yield the links at the top."""
    yield _link("Runbook", f"{RUNBOOK}#runbook", "What each alert means, and what to do about it")
    yield _link(
        "Status page",
        "${page:raw}",
        "The status page of the exporter. Set its address in the variable of this name. The default is where "
        "the page is after: kubectl port-forward statefulset/spot-interruption-exporter 8090",
    )


def _link(title: str, url: str, tooltip: str) -> dashboard.DashboardLink:
    link = dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url).tooltip(tooltip)
    return link.icon("external link").target_blank(target_blank=True)


class Marks(model.AnnotationQuery):
    """An annotation with the fields for Prometheus, which the schema does not have.

    https://grafana.com/docs/grafana/latest/datasources/prometheus/#annotations
    """

    def to_json(self) -> dict[str, object]:  # noqa: D102  # the model's own
        return super().to_json() | {
            "titleFormat": BY_POOL,
            "textFormat": "interrupted",
            "tagKeys": POOL.replace(" ", ""),
            # The minimum. Grafana takes a hundredth of the range if that is longer.
            "step": "1m",
        }


def marks(panels: Sequence[int]) -> Marks:
    """Return the annotation that marks the interruptions of each pool in these panels."""
    return Marks(
        name="Interruptions by pool",
        datasource=SOURCE,
        enable=True,
        icon_color="red",
        filter_val=model.AnnotationPanelFilter(exclude=False, ids=list(panels)),
        expr=f"{increase('spot_interruptions_total', POOL, WINDOW)} > 0",
    )


def build() -> model.Dashboard:
    """Return the dashboard."""
    board = (
        dashboard.Dashboard("Spot interruptions")
        .uid("spot-interruption-exporter")
        .description(
            "Interruptions of GKE Spot VMs: when, where and how often, and the health of the exporter."
        )
        .tags(["gke", "spot", "prometheus"])
        .timezone(shapes.TimeZoneBrowser)
        .time("now-7d", "now")
        .refresh("1m")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .editable()
    )
    for variable in variables():
        board.with_variable(variable)
    for link in links():
        board.link(link)
    for glance in overview():
        board.with_panel(glance)
    for title, part in (
        ("Interruption rates", rates()),
        ("Age at interruption", ages()),
        ("Capacity", capacity()),
        ("Pipeline health", pipeline()),
        ("Exporter process", resources()),
    ):
        board.with_row(dashboard.Row(title))
        for panel in part:
            board.with_panel(panel)
    built = board.build()
    ids = {}
    for number, placed in enumerate(built.panels or [], 1):
        ids[placed.title] = placed.id_val = number
        if isinstance(placed, model.Panel) and isinstance(placed.options, table.Options):
            # The builder always sets it. Grafana 11 and 12 do not need it, and Grafana 13 does not have it.
            placed.options.footer = None
    marked = marks([ids["Interruptions over time"], ids["Live Spot instances by pool"]])
    built.annotations = model.AnnotationContainer([marked])
    return built


if __name__ == "__main__":
    json.dump(build(), sys.stdout, cls=JSONEncoder, indent=2)
    sys.stdout.write("\n")
