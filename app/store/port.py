"""The interfaces of the store: for the rest of the exporter, and between the engine and its backends."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from app.domain.batch import Applied, Batch, Rollback
from app.domain.events import Event, InstanceInterrupted, InstanceName, Listed
from app.domain.instances import PendingInterruption
from app.domain.ledger import LabelSetWeek, LedgerEntry, PoolWeek, Query
from app.domain.totals import LabelSetTotals, Totals
from app.store.memory import Memory

T = TypeVar("T")

SLICE: Final = 500
"""Rows per transaction of periodic work. Pushes are recorded between two of these transactions."""
READ_SECONDS: Final = 10.0
"""Maximum time for one read of the ledger."""
KEY_PREFIX: Final = "spot-interruption-exporter"
"""The default beginning of the keys of a shared store."""
LEASE_SECONDS: Final = 15.0
"""The time for which a replica leads without a `sync`."""


class NotLeadingError(Exception):
    """Another replica does the periodic work now. The engine handles it."""


# for the rest of the exporter


@dataclass(slots=True)
class StoredState:
    """The part of the stored state that metrics and inventory start from."""

    totals: Totals = field(default_factory=Totals)
    pending: int = 0
    """Number of pending interruptions."""
    listed: Mapping[str, float] = field(default_factory=dict)
    """Project id to the time at which its last complete listing began."""
    lease_ends_at: float = field(default=inf, compare=False)
    """See `Shared`. Infinite if there are no other replicas."""
    rollback: Rollback | None = field(default=None, compare=False)
    """See `Applied`."""


class Store(Protocol):
    """The durable state of the exporter. Called from one thread at a time; `now` is the caller's clock.

    Every method raises StoreUnavailableError if the backend fails (StoreLostError if only a restart helps).
    In that case the call had no effect. If only the reply was lost it had its full effect, and a retry
    reports duplicates. Any other exception is a bug that one of the events met; the call had no effect.
    """

    def state(self) -> StoredState:
        """Return all totals, and the number of pending interruptions."""
        ...

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        """Decide and commit the events, in order, in one transaction."""
        ...

    def recover(self, events: Sequence[InstanceInterrupted], settle_seconds: float, now: float) -> Applied:
        """Apply interruptions that were found in a list of operations.

        Nothing is written for an event whose key is recorded. An event from before the time since when the
        keys are complete enters the ledger alone. Any other event is left to its push until it is older than
        `settle_seconds`, not counting the time in which no exporter ran or the store was away. `outcomes` has
        those of the remaining events.
        """
        ...

    def expire(self, now: float) -> Applied:
        """Count a slice of the pending interruptions whose grace period has ended."""
        ...

    def accrue_instance_seconds(self, now: float) -> Applied:
        """Add the time that Spot instances have lived since the last call."""
        ...

    def prune(self, now: float) -> Applied:
        """Delete a slice of the rows that are older than the retention."""
        ...

    def begin_listing(self, project: str, now: float) -> Applied:
        """Begin a listing of the project's instances. It replaces a listing that has not ended."""
        ...

    def record_listed(self, project: str, began: float, listed: Sequence[Listed], now: float) -> Applied:
        """Commit a slice of the project's listing; `began` is when it began."""
        ...

    def end_listing(self, project: str, began: float, unread_zones: Collection[str], now: float) -> Applied:
        """End a slice of the instances that are missing from the listing, except those in unread zones.

        Call it until `more` is false. Then the listing is complete.
        """
        ...

    def release_held(self, rows: Totals, now: float) -> Applied:
        """Store that these rows export their values from now on."""
        ...

    def close(self) -> None:
        """Close the backend. May be called more than once."""
        ...


class SharedStore(Store, Protocol):
    """A store that several replicas of the exporter use at the same time."""

    def sync(self, now: float) -> Applied:
        """Read what other replicas have changed, and take the lease if no replica has it."""
        ...


class LedgerReader(Protocol):
    """Reads the ledger beside the writer, from any thread.

    Every method raises StoreUnavailableError if the backend fails, or needs longer than READ_SECONDS.
    """

    def interruptions(self, query: Query) -> Sequence[LedgerEntry]:
        """Return the newest interruptions that match the query, newest first."""
        ...

    def pools(self, now: float, limit: int) -> Sequence[PoolWeek]:
        """Return the node pools with most interruptions in the week before `now`, most first."""
        ...

    def week(self, now: float) -> Sequence[LabelSetWeek]:
        """Return counted interruptions and instance time in the 7 days before `now`, by label set.

        The rows have no order. A label set can have several rows, which add up.
        """
        ...

    def counting_since(self) -> float | None:
        """Return the time since when interruptions are counted; None if it is not known."""
        ...

    def label_sets(self) -> Sequence[LabelSetTotals]:
        """Return the totals by label set, summed over all replicas."""
        ...


@dataclass(frozen=True, slots=True)
class Sync:
    """The regular reading of what other replicas have changed."""

    run: Callable[[float], Applied]
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """A store, its ledger, and findings from opening it."""

    store: Store
    ledger: LedgerReader
    moved_aside_to: Path | None = None
    """The new path of a damaged store; None if the store was sound."""
    sync: Sync | None = None
    """None if there are no other replicas."""
    warnings: Sequence[str] = ()
    """Reasons why acknowledged events or counts might be lost."""


# between the engine and its backends


Clock: TypeAlias = Literal["keys_complete_since", "accrued_until", "downtime", "jumped_at"]
"""The stored times, and a duration: `downtime`.

Every event's key was recorded since `keys_complete_since`. Instance-seconds were added up to `accrued_until`.
For the other two, see `Memory`.
"""


@dataclass(slots=True)
class Listing:
    """A listing that has begun."""

    project: str
    id: str
    """Unique, so that the backend can tell its data from those of another listing."""
    position: str = ""
    """The place up to which the backend has looked for unlisted instances; empty at the start."""


class Due(NamedTuple):
    """Pending interruptions whose grace period has ended, or has an end that is too late to be right."""

    pending: Sequence[PendingInterruption]
    more: bool
    """More of them may be stored."""


class Unlisted(NamedTuple):
    """A slice of the living instances that are missing from a listing: names and identities."""

    instances: Sequence[tuple[InstanceName, str]]
    position: str | None
    """The beginning of the next slice; None after the last slice."""


class Transaction(Protocol):
    """The reads and writes of one transaction, which is committed as a whole or not at all.

    The backend writes the changes of `batch` itself, after the work.
    """

    batch: Batch

    def load(
        self,
        names: Iterable[InstanceName],
        keys: Sequence[str] = (),
        archived: Iterable[tuple[InstanceName, str]] = (),
    ) -> None:
        """Load everything about the names into the batch, and which of the event keys are recorded.

        A name may be there several times, or may have been loaded before.

        Of the archived incarnations, load only those with these names and identities.
        """
        ...

    def load_due(self) -> Due:
        """Return a slice of pending interruptions whose grace period has ended, and load their names."""
        ...

    def learn(self, number: str, project: str) -> Sequence[InstanceName]:
        """Store the id of the project with that number, and move the project's ledger rows to the id.

        Return the instance names that are stored under the number; they are loaded, also under the id.
        """
        ...

    def find_past(self, keys: Sequence[str]) -> Collection[str]:
        """Return those of the event keys whose interruption is in the ledger, not counted."""
        ...

    def read_clock(self, name: Clock) -> float | None:
        """Return a stored time or duration, in seconds; None if it was never stored."""
        ...

    def set_clock(self, name: Clock, seconds: float) -> None:
        """Store a time or duration."""
        ...

    def begin_listing(self, listing: Listing) -> None:
        """Begin with no listed instance."""
        ...

    def drop_listing(self, listing: Listing) -> None:
        """Delete what is stored about the listing."""
        ...

    def is_lost(self, listing: Listing) -> bool:
        """Return True if what was stored about the listing is gone, or belongs to another listing."""
        ...

    def add_listed(self, listing: Listing, identities: Sequence[str]) -> None:
        """Add instances to the listing."""
        ...

    def last_sweep(self, project: str) -> float | None:
        """Return when the last listing of the project began that ended unlisted instances."""
        ...

    def load_unlisted(self, listing: Listing) -> Unlisted:
        """Return the slice at the listing's position, and load its names."""
        ...

    def complete_listing(self, listing: Listing, began: float, *, swept: bool, whole: bool) -> None:
        """Store when the complete listing began.

        `swept`: it has ended unlisted instances. `whole`: it has read every zone.
        """
        ...


class Backend(Protocol):
    """A database. It knows no rules. Its methods raise what `Store` documents."""

    memory: Memory
    """Complete and up to date while the backend is connected."""

    def connect(self) -> None:
        """Connect, and load the memory, unless that is done."""
        ...

    def transact(self, work: Callable[[Transaction], T], now: float, *, leading: bool = False) -> T:
        """Run the work in a transaction, write and commit its changes, and return its result.

        The backend may run the work again if other replicas have changed what the work has read. With
        `leading`, raise NotLeadingError if another replica does the periodic work.
        """
        ...

    def prune(self, before: float, now: float) -> Applied:
        """Delete a slice of what was recorded before that time, and at last the totals that are idle since.

        `before` is minus infinity while nothing is too old. Raises NotLeadingError if another replica does
        the periodic work.
        """
        ...

    def close(self) -> None:
        """See `Store`."""
        ...


class SharedBackend(Backend, Protocol):
    """A database that several replicas of the exporter use at the same time."""

    def sync(self, now: float) -> Applied:
        """See `SharedStore`."""
        ...
