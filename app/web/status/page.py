"""`GET /`: the status page, rendered on the server. It loads nothing and runs no script."""

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from typing import Final

from fastapi import FastAPI, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from app import DOCS_URL, VERSION
from app.domain.events import UNKNOWN
from app.domain.history import Query
from app.domain.instances import OTHER
from app.domain.totals import LabelSetTotals
from app.errors import StoreUnavailableError
from app.metrics import Metrics
from app.store import History
from app.web.ops import Condition
from app.web.problems import INERT
from app.web.status import charts, formats
from app.web.status.overview import Overview, overview
from app.web.status.snapshot import Facts, Ledger, Seen

NEWEST: Final = 10
_POOLS: Final = 10_000
"""More than the page shows, because the sums are those of all pools."""
_KEEP_SECONDS: Final = 5.0
_IDLE: Final = 10.0
"""The page is kept for this many times the time that it took to make."""

_STYLE: Final = Markup(files("app.web.status").joinpath("templates", "page.css").read_text())  # noqa: S704 - our own
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


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("app.web.status"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=_STYLE,
        version=VERSION,
        docs_url=DOCS_URL,
        unsure=(UNKNOWN, OTHER),
        charts=charts,
        newest_rows=NEWEST,
        dash=formats.DASH,
    )
    environment.filters.update(
        legible=formats.legible,
        count=formats.count,
        duration=formats.duration,
        ago=formats.ago,
        significant=formats.significant,
        rate=formats.rate,
        percent=formats.percent,
        several=formats.several,
        moment=formats.moment,
        machine_moment=formats.machine_moment,
        spark=charts.spark,
        described=charts.described,
    )
    return environment


_TEMPLATE: Final = _templates().get_template("page.html")


def render(page: Overview, metrics_path: str) -> str:
    """Return the page as HTML."""
    return _TEMPLATE.render(page=page, metrics_path=metrics_path)


@dataclass(slots=True)
class StatusPage:
    """The page, made in one thread and kept for a few seconds, so that reloading browsers cost nothing."""

    condition: Condition
    metrics: Metrics
    ledger: History
    clock: Callable[[], float]
    metrics_path: str
    listing_interval_seconds: float
    _started_at: float = field(init=False)
    _made: bytes = field(default=b"", init=False)
    _made_at: float = field(default=0.0, init=False)
    _made_until: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started_at = self.clock()

    def get(self, ailing: str | None, missing: Sequence[str]) -> bytes:
        """Return the page; make it again if the kept page is too old."""
        now = self.clock()
        # A page from the future was made before the clock was set back.
        if not self._made_at <= now < self._made_until:
            ledger, label_sets, trouble = self._read(now)
            self._made_at = self.clock()
            page = overview(self._facts(ledger, label_sets, trouble, ailing, missing))
            self._made = render(page, self.metrics_path).encode()
            self._made_until = self._made_at + max(_KEEP_SECONDS, _IDLE * (self._made_at - now))
        return self._made

    def _read(self, now: float) -> tuple[Ledger | None, Sequence[LabelSetTotals], str]:
        """Return the ledger and all totals. Without a ledger: this replica's totals, and the reason."""
        try:
            newest = self.ledger.interruptions(Query(limit=NEWEST))
            ledger = Ledger(self.ledger.pools(now, _POOLS), newest, self.ledger.week(now))
            return ledger, self.ledger.label_sets(), ""
        except StoreUnavailableError as exc:
            return None, self.metrics.label_sets(), str(exc)

    def _facts(
        self,
        ledger: Ledger | None,
        label_sets: Sequence[LabelSetTotals],
        trouble: str,
        ailing: str | None,
        missing: Sequence[str],
    ) -> Facts:
        return Facts(
            now=self._made_at,
            started_at=self._started_at,
            label_sets=label_sets,
            pending=self.metrics.pending,
            seen=Seen(self.metrics.own(Seen.SERIES)),
            ledger=ledger,
            ledger_trouble=trouble,
            ailing=ailing,
            missing=missing,
            listing_interval_seconds=self.listing_interval_seconds,
        )


def add_page(app: FastAPI, page: StatusPage) -> None:
    """Add the endpoint of the page. It is not part of the described API."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="page")

    @app.get("/", include_in_schema=False)
    async def status() -> Response:
        condition = page.condition
        body = await asyncio.get_running_loop().run_in_executor(
            thread, page.get, condition.ailing(), condition.missing()
        )
        return Response(body, media_type="text/html; charset=utf-8", headers=_HEADERS)
