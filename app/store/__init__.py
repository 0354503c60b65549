"""What the exporter remembers, durably: the port, and the one place that names its adapters."""

import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from app.domain.attribution import Rules
from app.domain.batch import Applied
from app.domain.events import Event, Listed
from app.domain.history import Entry, LabelSetWeek, PoolHistory, Query
from app.domain.outcomes import Outcome
from app.domain.totals import LabelSetTotals, Totals
from app.errors import StartError

SLICE = 500
"""How many rows the periodic work takes at a time, with pushes between."""
READ_SECONDS = 10.0
"""How long reading the ledger may take."""
LEASE_SECONDS = 15.0
"""How long a replica leads without a `refresh`."""


@dataclass(slots=True)
class Remembered:
    """What a store holds when it is opened, or again after it was away."""

    totals: Totals = field(default_factory=Totals)
    pending: int = 0
    listed: Mapping[str, float] = field(default_factory=dict)
    """The moment for which each project's last complete listing spoke."""
    leads_until: float = field(default=inf, compare=False)
    """See `Shared`; for ever, where there are no replicas."""


Commit: TypeAlias = Callable[[], Applied]
"""What is left to do of something, and may wait for a disk or for other machines."""


class Prepared(NamedTuple):
    """Events that are decided, and to be committed."""

    commit: Commit
    outcomes: Sequence[Outcome] = ()
    """One an event, if it comes to the commit; none, where they show only then."""
    remains: object = None
    """What is needed no more; freeing it takes a moment, which is cheapest while the commit waits."""


class Store(Protocol):
    """What the exporter remembers, durably. Called from one thread at a time; `now` is by the caller's clock.

    Every method raises StoreUnavailableError when the backend fails (StoreLostError if it cannot come back);
    then nothing of that call has happened, or, after a lost answer, all of it has and shows as duplicates.
    Any other exception is a bug's, met by one of the events; nothing of that call has happened.
    """

    def remembered(self) -> Remembered:
        """All totals, and how many interruptions wait."""
        ...

    def refresh(self, now: float) -> Applied:
        """Read again what other replicas may have changed, and lead them if nobody does."""
        ...

    def prepare(self, events: Sequence[Event], now: float) -> Prepared:
        """Decide the events, in order, in one transaction, and leave to the returned commit what may wait.

        Nothing else of the store may be called before that has come to its end.
        """
        ...

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        """Decide and commit the events, in order, in one transaction."""
        ...

    def expire(self, now: float) -> Applied:
        """Count a slice of the interruptions whose grace has ended."""
        ...

    def account(self, now: float) -> Applied:
        """Add the time that Spot instances have lived since the last call, one hour at most."""
        ...

    def prune(self, now: float) -> Applied:
        """Forget a slice of what has been remembered for long enough."""
        ...

    def begin_listing(self, project: str, now: float) -> Applied:
        """Begin a listing of the project's fleet, in place of one that has not come to its end."""
        ...

    def take_in(self, project: str, began: float, listed: Sequence[Listed], now: float) -> Applied:
        """Commit a slice of the listing that began at that moment."""
        ...

    def end_listing(self, project: str, began: float, unread_zones: Collection[str], now: float) -> Applied:
        """End a slice of what the listing, which is complete but for those zones, has not named."""
        ...

    def reveal(self, rows: Totals, now: float) -> Applied:
        """Make it durable that these rows show their values from now on."""
        ...

    def close(self) -> None:
        """Let go of the backend. May be called more than once."""
        ...


class History(Protocol):
    """The ledger, read beside the writer; from any thread.

    Every method raises StoreUnavailableError when the backend fails, or needs longer than READ_SECONDS.
    """

    def interruptions(self, query: Query) -> Sequence[Entry]:
        """The newest interruptions that fit the query, newest first."""
        ...

    def pools(self, now: float, limit: int) -> Sequence[PoolHistory]:
        """The node pools with most interruptions in the week before `now`, most first."""
        ...

    def week(self, now: float) -> Sequence[LabelSetWeek]:
        """Interruptions and instance time in the 7 days before `now`, by label set.

        In no order; a label set can have several rows, which add up.
        """
        ...

    def label_sets(self) -> Sequence[LabelSetTotals]:
        """The totals by label set, of all replicas together."""
        ...


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """A store, its ledger, and what opening it has to tell."""

    store: Store
    history: History
    damaged: Path | None = None
    """Where a damaged store was moved to; None: it was sound."""
    refresh_seconds: float | None = None
    """How often to `refresh`; None: there are no other replicas."""
    warnings: Sequence[str] = ()
    """Why what is acknowledged or counted might not last."""


def open_store(
    url: str,
    rules: Rules,
    *,
    replica: str = "",
    hold: bool = False,
    reset_totals: bool = False,
    lease_seconds: float = LEASE_SECONDS,
) -> OpenedStore:
    """Open the store that the URL names, and make it where there is none.

    `replica`: the name of this one among those that share the store; by default the host's. `hold`: series
    that appear for the first time in their life wait for `reveal`. `lease_seconds`: how long this replica
    leads without a `refresh`. Raises StartError.
    """
    if url.startswith("sqlite:///"):
        from app.store.sqlite.backend import SQLiteStore  # noqa: PLC0415 - an adapter's driver is loaded when it is used
        from app.store.sqlite.file import SQLiteFile  # noqa: PLC0415
        from app.store.sqlite.ledger import SQLiteHistory  # noqa: PLC0415

        file = SQLiteFile.open(url.removeprefix("sqlite:///"))
        store = SQLiteStore(file, rules, hold=hold)
        if reset_totals:
            store.reset_totals()
        return OpenedStore(store, SQLiteHistory(file), file.damaged)
    return _open_redis(
        url, rules, replica=replica, hold=hold, reset_totals=reset_totals, lease_seconds=lease_seconds
    )


def url_without_secrets(url: str) -> str:
    """Return a store's URL for the log: without credentials and options, which may hold a password."""
    if url.startswith("sqlite:///"):
        return url
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    # An @ among the options may end a password in which ? is not percent-encoded.
    return f"{scheme}://{'' if '@' in options else place.rpartition('@')[2]}"


def inspect_store(url: str) -> str:
    """What is at the URL, or that a store could be made there; changes nothing. Raises StartError."""
    if url.startswith("sqlite:///"):
        from app.store.sqlite.file import inspect_file  # noqa: PLC0415 - as above

        return inspect_file(url.removeprefix("sqlite:///"))
    return _inspect_redis(url)


def store_warnings(url: str, replica: str) -> Sequence[str]:
    """Return why the store at the URL might lose what is acknowledged or counted; empty if it is away."""
    if url.startswith("sqlite:///"):
        return ()
    with _client_at_hand():
        from app.store.redis.inspect import warnings_at, warnings_of_name  # noqa: PLC0415

    return (*warnings_of_name(replica or socket.gethostname()), *warnings_at(url))


def _open_redis(
    url: str, rules: Rules, *, replica: str, hold: bool, reset_totals: bool, lease_seconds: float
) -> OpenedStore:
    with _client_at_hand():
        from app.store.redis.backend import REFRESH_SECONDS, RedisStore  # noqa: PLC0415
        from app.store.redis.connection import Link  # noqa: PLC0415
        from app.store.redis.ledger import RedisHistory  # noqa: PLC0415

    replica = replica or socket.gethostname()
    store = RedisStore.open(
        Link(url), rules, replica=replica, hold=hold, reset_totals=reset_totals, lease_seconds=lease_seconds
    )
    history = RedisHistory(Link(url))
    warnings = store_warnings(url, replica)
    return OpenedStore(store, history, refresh_seconds=REFRESH_SECONDS, warnings=warnings)


def _inspect_redis(url: str) -> str:
    with _client_at_hand():
        from app.store.redis.inspect import inspect_redis  # noqa: PLC0415
    return inspect_redis(url)


@contextmanager
def _client_at_hand() -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise StartError("store.url: install the extra `redis` to use a store of this scheme") from exc
