"""A real Prometheus server that scrapes the targets of a test.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

from tests.support.process import LOOPBACK, NO_AUTHORITIES, Process, answers, eventually, free_port
from tests.support.requirement import require
from tests.support.samples import Samples, parsed

Labels = Mapping[str, str]

# A scrape's timestamp is moved by as much, to make the distances even.
_ALIGNMENT_SECONDS: Final = 0.002
_HOUR_SECONDS: Final = 3600


class QueryError(Exception):
    """Prometheus refused a request. The message is that of Prometheus."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target: `host:port`, and labels for its series.

    The labels `job` and `__metrics_path__` replace `exporter` and `/metrics`.
    """

    address: str
    labels: Labels = field(default_factory=dict)


class Sample(NamedTuple):
    """The value of a series at one time."""

    labels: Labels
    value: float


class Series(NamedTuple):
    """The scraped samples of a series: (Unix time, value), oldest first."""

    labels: Labels
    samples: list[tuple[float, float]]


def backfill(history: Path, directory: Path) -> None:
    """Create blocks of Prometheus' data in a directory, from samples of the past in the OpenMetrics format.

    https://prometheus.io/docs/prometheus/latest/storage/#backfilling-from-openmetrics-format
    """
    promtool = require("promtool", shutil.which("promtool"))
    # The file is read once more for every block.
    duration = "--max-block-duration=216h"
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", duration]
    done = subprocess.run(
        [*command, history, directory / "tsdb"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Prometheus:
    """A Prometheus server during a `with` block. All its data is in `directory`.

    It reads its targets every 5 s, which no flag changes, so the first scrape can be that late.
    """

    def __init__(
        self,
        directory: Path,
        targets: Sequence[Target],
        *,
        scrape_interval: float = 1,
        rules: Sequence[Path] = (),
        program: Path | None = None,
        scraping: Mapping[str, object] | None = None,
    ) -> None:
        """`program`: None for the installed one. `scraping`: more keys of the scrape configuration."""
        program = program or Path(require("prometheus", shutil.which("prometheus")))
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._config = directory / "prometheus.yml"
        self._interval = scrape_interval
        self._rules = rules
        self._scraping = scraping or {}
        self._targets = targets
        self._write_config()
        self._client = httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=NO_AUTHORITIES)
        self._process = Process(
            [
                program,
                f"--config.file={self._config}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address={LOOPBACK}:{port}",
                "--web.enable-lifecycle",
            ],
            output=directory / "prometheus.log",
            ready=answers(f"{self.url}/-/ready"),
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.stop()

    def query(self, promql: str, time: float | None = None) -> list[Sample]:
        """Return an instant vector or a scalar, now or at a Unix time. Raises QueryError."""
        match self._query(promql, time):
            case {"resultType": "vector", "result": result}:
                return [Sample(one["metric"], float(one["value"][1])) for one in result]
            case {"resultType": "scalar", "result": [_, value]}:
                return [Sample({}, float(value))]
            case other:
                raise QueryError(f"{promql} is a {other['resultType']}")

    def value(self, promql: str, time: float | None = None) -> float | None:
        """Return the only value of a query, None if there is none. Raises QueryError if there are several."""
        match self.query(promql, time):
            case []:
                return None
            case [sample]:
                return sample.value
            case several:
                raise QueryError(f"{promql} has {len(several)} values: {several}")

    def raw(self, selector: str, seconds: float) -> list[Series]:
        """Return the scraped samples of the last seconds of every series that the selector matches.

        The end of a series (staleness) is not a sample; it shows as a gap.
        """
        data = self._query(f"{selector}[{round(seconds * 1000)}ms]")
        return [
            Series(one["metric"], [(at, float(value)) for at, value in one["values"]])
            for one in data["result"]
        ]

    def last_scrape(self) -> float:
        """Return the time of the last successful scrape of a target, in Unix seconds.

        A query at that time has its samples; a query now has none if a later scrape has failed. Raises
        QueryError if no scrape succeeded within an hour.
        """
        times = [at for series in self.raw("up", _HOUR_SECONDS) for at, up in series.samples if up]
        if not times:
            raise QueryError(f"no scrape of {self._targets} has succeeded")
        return max(times)

    def wait_for_scrapes(self, n: int = 1, *, within: float = 30, successful: bool = True) -> None:
        """Return once each target has been scraped n times in scrapes that began after this call.

        Only scrapes that succeeded count, unless `successful` is false.
        """
        called = time.time() + _ALIGNMENT_SECONDS

        def scraped() -> bool:
            fresh = [
                sum(at > called and bool(up or not successful) for at, up in series.samples)
                for series in self.raw("up", time.time() - called + 1)
            ]
            return sum(count >= n for count in fresh) >= len(self._targets)

        eventually(scraped, within=within, what=f"{n} scrapes of {self._targets}")

    def retarget(self, targets: Sequence[Target]) -> None:
        """Replace the targets, for an exporter that moved or a new replica."""
        self._targets = targets
        self._write_config()
        response = self._client.post("/-/reload")
        if not response.is_success:
            raise QueryError(response.text)

    def own_samples(self) -> Samples:
        """Return the samples of Prometheus about itself."""
        return parsed(self._client.get("/metrics").text)

    def log(self) -> str:
        """Return its log."""
        return self._process.text()

    def _query(self, promql: str, time: float | None = None) -> dict[str, Any]:
        params = {"query": promql} | ({} if time is None else {"time": f"{time:.3f}"})
        answer = self._client.get("/api/v1/query", params=params).json()
        if answer["status"] != "success":
            raise QueryError(f"{promql}: {answer['error']}")
        data: dict[str, Any] = answer["data"]
        return data

    def _write_config(self) -> None:
        interval = f"{round(self._interval * 1000)}ms"
        config = {
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": [str(path.resolve()) for path in self._rules],
            "scrape_configs": [
                {
                    "job_name": "exporter",
                    **self._scraping,
                    "static_configs": [
                        {"targets": [target.address], "labels": dict(target.labels)}
                        for target in self._targets
                    ],
                }
            ],
        }
        # JSON is YAML.
        self._config.write_text(json.dumps(config, indent=2))
