"""`GET /`: the status page, rendered on the server. It loads nothing and runs no script."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Response

from app import DOCS_URL, VERSION
from app.domain.events import UNKNOWN
from app.domain.instances import OTHER
from app.domain.ledger import Query
from app.domain.times import rfc3339
from app.domain.totals import LabelSetTotals
from app.errors import StoreUnavailableError
from app.metrics import Metrics
from app.store.port import LedgerReader
from app.web.ops import Condition
from app.web.problems import INERT
from app.web.status import charts, formats
from app.web.status.overview import Overview, overview
from app.web.status.snapshot import Ledger, SelfMetrics, Snapshot
from app.web.waiting import WaitingLimit

if TYPE_CHECKING:
    from jinja2 import Template

NEWEST: Final = 10
_POOLS: Final = 10_000
"""More than the page shows, because the sums are those of all pools."""
_KEEP_SECONDS: Final = 5.0
_KEEP_SHARE: Final = 10.0
"""The page is kept at least for this many times the time that reading the ledger took."""

_STYLE: Final = files("app.web.status").joinpath("templates", "page.css").read_text()
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    **INERT,
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@cache
def _template() -> "Template":
    """Return the compiled template. It is not made before the first request for the page.

    Importing jinja2 and compiling take a tenth of the time of a start, and 6 MiB.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("app.web.status"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup(_STYLE),  # noqa: S704 - our own
        version=VERSION,
        docs_url=DOCS_URL,
        unsure=(UNKNOWN, OTHER),
        charts=charts,
        newest_rows=NEWEST,
        dash=formats.DASH,
    )
    environment.filters.update(
        escape_bidi=formats.escape_bidi,
        count=formats.count,
        duration=formats.duration,
        significant=formats.significant,
        rate=formats.rate,
        percent=formats.percent,
        count_noun=formats.count_noun,
        moment=formats.moment,
        rfc3339=rfc3339,
        spark=charts.spark,
        described=charts.described,
    )
    return environment.get_template("page.html")


def render(page: Overview, metrics_path: str) -> str:
    """Return the page as HTML."""
    return _template().render(page=page, metrics_path=metrics_path)


@dataclass(slots=True)
class StatusPage:
    """The page, rendered in one thread and kept for a few seconds, so that reloads cost nothing."""

    condition: Condition
    metrics: Metrics
    ledger: LedgerReader
    clock: Callable[[], float]
    metrics_path: str
    listing_interval_seconds: float
    _started_at: float = field(init=False)
    _page: bytes = field(default=b"", init=False)
    _read_at: float = field(default=0.0, init=False)
    _expires_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started_at = self.clock()

    def get(self, unhealthy_reason: str | None, not_ready_reasons: Sequence[str]) -> bytes:
        """Return the page; render it again if the kept page is too old."""
        now = self.clock()
        # A page from the future was made before the clock was set back.
        if not self._read_at <= now < self._expires_at:
            ledger, label_sets, error = self._read(now)
            self._read_at = self.clock()
            page = overview(self._snapshot(ledger, label_sets, error, unhealthy_reason, not_ready_reasons))
            self._page = render(page, self.metrics_path).encode()
            self._expires_at = self._read_at + max(_KEEP_SECONDS, _KEEP_SHARE * (self._read_at - now))
        return self._page

    def _read(self, now: float) -> tuple[Ledger | None, Sequence[LabelSetTotals], str]:
        """Return the ledger and all totals. Without a ledger: this replica's totals, and the reason."""
        try:
            newest = self.ledger.interruptions(Query(limit=NEWEST))
            ledger = Ledger(
                self.ledger.pools(now, _POOLS),
                newest,
                self.ledger.week(now),
                self.ledger.counting_since(),
            )
            return ledger, self.ledger.label_sets(), ""
        except StoreUnavailableError as exc:
            return None, self.metrics.label_sets(), str(exc)

    def _snapshot(
        self,
        ledger: Ledger | None,
        label_sets: Sequence[LabelSetTotals],
        error: str,
        unhealthy_reason: str | None,
        not_ready_reasons: Sequence[str],
    ) -> Snapshot:
        return Snapshot(
            now=self._read_at,
            started_at=self._started_at,
            label_sets=label_sets,
            pending=self.metrics.pending,
            self_metrics=SelfMetrics(self.metrics.self_samples(SelfMetrics.SERIES)),
            ledger=ledger,
            refusals=dict(self.metrics.refusals.newest),
            ledger_error=error,
            unhealthy_reason=unhealthy_reason,
            not_ready_reasons=not_ready_reasons,
            listing_interval_seconds=self.listing_interval_seconds,
        )


def add_page(app: FastAPI, page: StatusPage) -> None:
    """Add the endpoint of the page. It is not part of the described API."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="page")
    limit = WaitingLimit()

    @app.get("/", include_in_schema=False)
    async def status() -> Response:
        condition = page.condition
        with limit.place():
            body = await asyncio.get_running_loop().run_in_executor(
                thread, page.get, condition.unhealthy_reason(), condition.not_ready_reasons()
            )
        return Response(body, media_type="text/html; charset=utf-8", headers=_HEADERS)
