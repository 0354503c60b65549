"""A store with a large ledger, created without a server."""

from collections.abc import Iterator
from pathlib import Path

from app.domain.changes import Rules
from app.domain.events import Event, InstanceCreated, InstanceInterrupted, InstanceName, Node
from app.store.opening import open_store
from app.store.port import SLICE
from tests.support.examples import DAY, GRACE

_RULES = Rules(grace_seconds=GRACE, retention_seconds=31 * DAY)
_ZONES = ("europe-west1-b", "europe-west1-c", "europe-west1-d")
_TYPES = ("e2-standard-8", "n2-standard-8", "t2d-standard-16", "g2-standard-12")


def remember(directory: Path, now: float, *, interruptions: int, pools: int) -> None:
    """Store a number of interruptions of the last week, and a live VM per node pool, in the directory."""
    opened = open_store(f"sqlite:///{directory}/exporter.db", _RULES)
    events = list(_events(now, interruptions, pools))
    for first in range(0, len(events), SLICE):
        opened.store.apply(events[first : first + SLICE], now)
    opened.store.close()


def _events(now: float, interruptions: int, pools: int) -> Iterator[Event]:
    for number in range(interruptions + pools):
        pool = number % pools
        node = Node(f"cluster-{pool // 10:02}", "europe-west1", f"pool-{pool:03}", _TYPES[pool % len(_TYPES)])
        name = InstanceName("shop-prod", _ZONES[number % len(_ZONES)], f"gke-{pool:03}-{number:06}")
        at = now - 7 * DAY * (number + 1) / (interruptions + 2)
        yield InstanceCreated(
            f"c{number}", at - 3600 - number, name, str(number), f"o{number}", node, spot=True
        )
        if number < interruptions:
            yield InstanceInterrupted(f"i{number}", at, name, str(number))
