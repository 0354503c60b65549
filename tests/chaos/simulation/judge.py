"""The comparison of what the exporters export with the model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Final, NamedTuple, Protocol

from app.domain.events import (
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceInterrupted,
    InstanceName,
    Listed,
    Node,
)
from app.domain.instances import Labels
from tests.chaos.plain_model import Model, Waiting
from tests.chaos.simulation.clocks import DAY, Time
from tests.chaos.simulation.exporter import Exporter
from tests.chaos.simulation.report import SimulationError, require

GRACE_SECONDS: Final = 1800.0
_SHORTEST_IDLE_SECONDS: Final = 28 * DAY
"""Less than the retention of 31 days, because the clock of an exporter may be ahead by two days."""


class Shown(NamedTuple):
    """The exported counters of a label set."""

    interruptions: int = 0
    created: int = 0
    failed: int = 0
    instance_seconds: float = 0.0


class Reader(Protocol):
    """Reads the store beside the exporters, without any fault."""

    def stored(self, keys: set[str]) -> set[str]:
        """Return those of the event keys that are recorded."""
        ...

    def described(self, listed: Sequence[Listed]) -> Sequence[Listed]:
        """Return those of the instances that a creation or a listing has described."""
        ...

    def pending_keys(self) -> set[str]:
        """Return the event keys of the pending interruptions."""
        ...

    def pending(self) -> int:
        """Return their number."""
        ...

    def keys_complete_since(self) -> float:
        """Return the time since when the keys are complete."""
        ...


class Judge:
    """Knows what is right, and compares."""

    def __init__(self, nodes: Mapping[InstanceName, Node], reader: Reader, time: Time) -> None:
        self._time = time
        self._counted: dict[Labels, Sequence[float]] = {}
        self._changed_at: dict[Labels, float] = {}
        """The true time at which the counters of each label set have changed."""
        self.model = Model(nodes)
        self._nodes = nodes
        self._reader = reader
        self._in_doubt: list[Sequence[Event]] = []
        """Deliveries that were refused, or whose process ended. Each event may be committed."""
        self._listed_in_doubt: list[Listed] = []
        """Instances of listings that may be committed."""
        self._doubtful_failures: set[str] = set()
        """The operations of failures that may be committed. Only a redelivery shows it."""
        self._shown: dict[str, dict[Labels, Shown]] = {}
        """By the exporter's name."""

    @property
    def doubts(self) -> bool:
        """True if it is not known of an event whether it is committed."""
        return bool(self._in_doubt or self._listed_in_doubt or self._doubtful_failures)

    def commit(self, events: Sequence[Event]) -> None:
        """Apply events that were acknowledged."""
        for event in events:
            self.model.commit(event)
            if isinstance(event, CreationFailed):
                self._doubtful_failures.discard(event.operation)

    def doubt(self, events: Sequence[Event]) -> None:
        """Note a delivery that was not acknowledged as a whole."""
        self._in_doubt.append(events)
        self._doubtful_failures |= {event.operation for event in events if isinstance(event, CreationFailed)}

    def doubt_listed(self, listed: Sequence[Listed]) -> None:
        """Note a part of a listing that may be committed."""
        self._listed_in_doubt += listed

    def check(self, exporters: Sequence[Exporter]) -> None:
        """Compare the sums of what is exported with the model, unless an exporter could not use the store."""
        if not all(exporter.fresh for exporter in exporters):
            return
        self.resolve_doubts()
        self._expire()
        sums: dict[Labels, Shown] = {}
        dropped: set[Labels] = set()
        for exporter in exporters:
            shown, known = shown_by(exporter), self._shown.get(exporter.name, {})
            _check_monotonic(exporter.name, shown, known)
            dropped |= known.keys() - shown.keys()
            self._shown[exporter.name] = shown
            for labels, row in shown.items():
                sums[labels] = _sum(sums.get(labels, Shown()), row)
        for labels in dropped:
            self._drop(labels, sums.get(labels, Shown()))
        for labels, row in sums.items():
            self._check_row(labels, row)
        for expected in (self.model.interruptions, self.model.created, self.model.failed):
            require((+expected).keys() <= sums.keys(), "label sets are missing")

    def _drop(self, labels: Labels, left: Shown) -> None:
        """Apply that an exporter has dropped an idle label set; `left` is what the others still export."""
        idle = self._time.true - self._changed_at.get(labels, 0.0)
        require(idle > _SHORTEST_IDLE_SECONDS, f"{labels} is gone after {idle / DAY:.1f} idle days")
        model = self.model
        model.interruptions[labels], model.created[labels], model.failed[labels] = left[:3]

    def _check_row(self, labels: Labels, row: Shown) -> None:
        model = self.model
        right = (model.interruptions[labels], model.created[labels], model.failed[labels])
        most = right[2] + len(self._doubtful_failures)
        if self._counted.get(labels) != row[:3]:
            self._counted[labels], self._changed_at[labels] = row[:3], self._time.true
        if row[:2] != right[:2] or not right[2] <= row.failed <= most:
            raise SimulationError(f"{labels}: exported {row[:3]}, right {right}")

    def resolve_doubts(self) -> None:
        """Commit the events in doubt of which the store has the keys."""
        if self._listed_in_doubt:
            listed, self._listed_in_doubt = self._listed_in_doubt, []
            self.model.describe((one.id, one.name) for one in self._reader.described(listed))
        deliveries, self._in_doubt = self._in_doubt, []
        for events in deliveries:
            keys = {event.key for event in events if isinstance(event, InstanceCreated | InstanceInterrupted)}
            found = self._reader.stored(keys - self.model.keys) if keys - self.model.keys else set()
            for event in events:
                if isinstance(event, InstanceCreated | InstanceInterrupted) and event.key in found:
                    self.model.commit(event)

    def _expire(self) -> None:
        """Expire what does not wait in the store any more."""
        waiting = self.model.waiting
        if self._reader.pending() == len(waiting):
            return
        stored = self._reader.pending_keys()
        require(stored <= waiting.keys(), f"more interruptions wait than should: {stored - waiting.keys()}")
        for key in sorted(waiting.keys() - stored):
            early = self.model.expire(key, GRACE_SECONDS)
            require(early is None, early or "")

    # losses

    def snapshot(self) -> Model:
        """Return a copy of the model, for a store that goes back to this moment."""
        require(not self.doubts, "a snapshot needs a model without doubts")
        return self._copy(self.model)

    def _copy(self, model: Model) -> Model:
        """Return a copy without counters."""
        return Model(
            self._nodes,
            keys=set(model.keys),
            waiting=deepcopy(model.waiting),
            described=set(model.described),
            named=set(model.named),
            announced=set(model.announced),
            failures=set(model.failures),
        )

    def go_back(self, to: Model | None) -> None:
        """Apply that the store has lost everything since then, but no counter of a living exporter.

        None: everything.
        """
        require(not self.doubts, "a rollback needs a model without doubts")
        now = self.model
        self.model = Model(self._nodes) if to is None else self._copy(to)
        for name in ("interruptions", "created", "failed"):
            setattr(self.model, name, getattr(now, name))
        for waiting in self.model.waiting.values():
            waiting.seconds = GRACE_SECONDS  # what has explained it may be lost

    def begin_again(self, exporter: Exporter, keys: set[str]) -> None:
        """Begin with what a store has kept, and reported; only this exporter uses it.

        `keys` are the recorded ones.
        """
        shown, before = shown_by(exporter), self._shown.pop(exporter.name, {})
        for labels, row in shown.items():
            for value, old in zip(row, before.get(labels, Shown()), strict=True):
                require(value == 0 or value >= old, f"{labels} came back at {value} instead of {old} or 0")
        self.model = Model(self._nodes, keys=keys)
        for labels, row in shown.items():
            self.model.interruptions[labels] = row.interruptions
            self.model.created[labels], self.model.failed[labels] = row.created, row.failed
        self._in_doubt.clear()
        self._listed_in_doubt.clear()

    def expect_pending(self, events: Sequence[InstanceInterrupted]) -> None:
        """Apply that these interruptions are pending, for as long as the store says."""
        for event in events:
            self.model.waiting[event.key] = Waiting(event, GRACE_SECONDS)

    # when everything is well

    def check_gauge(self, exporter: Exporter, alive: Counter[Labels]) -> None:
        """Compare the gauge of an exporter, and require that nothing waits any more."""
        require(not self.model.waiting, f"{len(self.model.waiting)} interruptions wait still")
        gauge = +Counter({row.labels: row.instances for row in exporter.metrics.label_sets()})
        require(gauge == alive, f"{exporter.name}: alive: {_difference(gauge, alive)}")


def _check_monotonic(name: str, shown: Mapping[Labels, Shown], known: Mapping[Labels, Shown]) -> None:
    for labels, row in shown.items():
        before = known.get(labels, Shown())
        if any(now < old for now, old in zip(row, before, strict=True)):
            raise SimulationError(f"{name}: {labels} went from {before} to {row}")


def shown_by(exporter: Exporter) -> dict[Labels, Shown]:
    """Return the counters that an exporter exports."""
    return {
        row.labels: Shown(row.interruptions, row.created, row.failed, row.instance_seconds)
        for row in exporter.metrics.label_sets()
    }


def _sum(one: Shown, other: Shown) -> Shown:
    return Shown(
        one.interruptions + other.interruptions,
        one.created + other.created,
        one.failed + other.failed,
        one.instance_seconds + other.instance_seconds,
    )


def _difference(one: Counter[Labels], other: Counter[Labels]) -> dict[Labels, tuple[int, int]]:
    return {
        labels: (one[labels], other[labels])
        for labels in one.keys() | other.keys()
        if one[labels] != other[labels]
    }
