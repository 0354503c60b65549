"""The ledger as the page and the endpoint read it: a failed read is logged, and a lost store is reported."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from app.domain.ledger import LabelSetWeek, LedgerEntry, PoolWeek, Query
from app.domain.totals import LabelSetTotals
from app.errors import StoreLostError, StoreUnavailableError
from app.store.port import LedgerReader

_T = TypeVar("_T")
_LOG_EVERY_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


class WatchedLedger:
    """See `app.store.port.LedgerReader`."""

    def __init__(self, ledger: LedgerReader, on_lost: Callable[[StoreLostError], None]) -> None:
        """`on_lost` is called, from any thread, for an error that only a restart can correct."""
        self._ledger = ledger
        self._on_lost = on_lost
        self._logged_at = float("-inf")

    def interruptions(self, query: Query) -> Sequence[LedgerEntry]:
        return self._watch(lambda: self._ledger.interruptions(query))

    def pools(self, now: float, limit: int) -> Sequence[PoolWeek]:
        return self._watch(lambda: self._ledger.pools(now, limit))

    def week(self, now: float) -> Sequence[LabelSetWeek]:
        return self._watch(lambda: self._ledger.week(now))

    def counting_since(self) -> float | None:
        return self._watch(self._ledger.counting_since)

    def label_sets(self) -> Sequence[LabelSetTotals]:
        return self._watch(self._ledger.label_sets)

    def _watch(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except StoreLostError as exc:
            self._on_lost(exc)
            raise
        except StoreUnavailableError as exc:
            if time.monotonic() - self._logged_at >= _LOG_EVERY_SECONDS:
                self._logged_at = time.monotonic()
                _log.warning("the ledger could not be read", extra={"error": str(exc)})
            raise
