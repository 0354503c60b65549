"""The queries of the Grafana dashboard, with the values of its variables, as Grafana sends them."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import httpx

from tests.simulation.week import SECONDS, STEP_SECONDS
from tests.support.process import NO_AUTHORITIES

ROOT: Final = Path(__file__).parents[2]
MONITORING: Final = ROOT / "k8s" / "monitoring"
BOARD: Final = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: Final = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERY_VARIABLES: Final = [one for one in BOARD["templating"]["list"] if one["type"] == "query"]
# Grafana's own limit for annotations, and about what a panel has pixels.
ANNOTATION_POINTS, POINTS = 100, 1000


class Query(NamedTuple):
    """A query of a panel: at `points` across the range, or at its end if there are none."""

    name: str
    expression: str
    points: int = 0
    shortest_seconds: int = 15
    legend: str = ""


def _queries() -> Iterator[Query]:
    for panel in PANELS:
        shortest = _seconds(panel.get("interval", "15s"))
        for target in panel["targets"]:
            points = 0 if target["instant"] else panel.get("maxDataPoints", POINTS)
            name = f"{panel['title']} {target['refId']}"
            yield Query(name, target["expr"], points, shortest, target["legendFormat"])
    for one in BOARD["annotations"]["list"]:
        yield Query(one["name"], one["expr"], ANNOTATION_POINTS, _seconds(one["step"]), one["titleFormat"])


def _seconds(interval: str) -> int:
    return int(interval[:-1]) * {"s": 1, "m": 60, "h": 3600}[interval[-1]]


QUERIES: Final = {query.name: query for query in _queries()}


def interpolated(
    expression: str, chosen: Mapping[str, str], *, seconds: float = SECONDS, step: float = 60
) -> str:
    """Return a query over a number of seconds, with the values of the dashboard's and of Grafana's variables.

    https://grafana.com/docs/grafana/latest/dashboards/variables/add-template-variables/#global-variables
    """
    own = {
        "__range": f"{seconds:.0f}s",
        "__interval_ms": f"{1000 * step:.0f}",
        "__rate_interval": f"{max(step + STEP_SECONDS, 4 * STEP_SECONDS):.0f}s",
    }
    values = {**chosen, **own}
    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda found: values[found[1] or found[2]], expression)


@dataclass(frozen=True)
class Grafana:
    """Queries as Grafana does, with a choice for each variable. The range ends now, or at a Unix time."""

    url: str
    chosen: Mapping[str, str]
    ends: float | None = None

    def choosing(self, **chosen: str) -> Self:
        """Return a copy with other choices."""
        return replace(self, chosen={**self.chosen, **chosen})

    def series(self, query: Query) -> list[tuple[Mapping[str, str], list[float]]]:
        """Return the labels and values of each series. Raises an error with the reason of Prometheus."""
        if not query.points:
            found = self._get("query", query=interpolated(query.expression, self.chosen), time=self._now())
            return [(series["metric"], [float(series["value"][1])]) for series in found["result"]]
        step = max(query.shortest_seconds, int(SECONDS / query.points))
        expression = interpolated(query.expression, self.chosen, step=step)
        now = self._now()
        found = self._get("query_range", query=expression, start=now - SECONDS, end=now, step=step)
        return [
            (series["metric"], [float(value) for _, value in series["values"]]) for series in found["result"]
        ]

    def values(self, query: Query) -> list[float]:
        """Return the values of all series."""
        return [value for _, values in self.series(query) for value in values]

    def choices(self, variable: Mapping[str, Any]) -> set[str]:
        """Return the choices of a variable."""
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked, variable["query"]
        series, label = interpolated(asked[1], self.chosen), asked[2]
        now = self._now()
        return set(self._get(f"label/{label}/values", start=now - SECONDS, end=now, **{"match[]": series}))

    def _now(self) -> float:
        return time.time() if self.ends is None else self.ends

    def _get(self, path: str, **params: Any) -> Any:  # noqa: ANN401  # JSON
        url = f"{self.url}/api/v1/{path}"
        answer = httpx.get(url, params=params, trust_env=False, timeout=30, verify=NO_AUTHORITIES).json()
        assert answer["status"] == "success", f"{params}: {answer['error']}"
        return answer["data"]


ALL: Final = {variable["name"]: variable["allValue"] for variable in QUERY_VARIABLES}
