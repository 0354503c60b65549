"""A server that has gone back to older data: restored, failed over to a replica that lagged, or flushed.

Each process stores a claim when it connects, and an id with each transaction. So it notices that the server
has lost one of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self
from uuid import uuid4

from app.domain.batch import Rollback
from app.errors import NameTakenError
from app.store.memory import Memory
from app.store.redis.connection import Command, Key
from app.store.redis.rows import key
from app.store.redis.writes import replica_commands, shared_commands

NAME_LOST = "another process has started with this replica's name; each replica needs its own store.replica"


class Claim(NamedTuple):
    """The right of a process to write under its replica's name, which belongs to the highest number."""

    number: int
    process: str

    @classmethod
    def begin(cls, now: float) -> Self:
        """Return the claim that a new process renews when it connects.

        Its number is the time in milliseconds. So the newest process has the highest number, even if the
        server has lost the claims of the others.
        """
        return cls(round(now * 1000), uuid4().hex)

    def renewed(self, stored: str | None) -> Self:
        """Return the process's next claim, to replace the stored one.

        A transaction that watches the stored claim cannot run any more.
        """
        return self._replace(number=max(_number(stored), self.number) + 1)

    def __str__(self) -> str:
        return f"{self.number}:{self.process}"


def _number(stored: str | None) -> int:
    number = (stored or "").partition(":")[0]
    return int(number) if number.isdecimal() else 0


def new_transaction_id(now: float) -> str:
    """Return a unique id that contains the time."""
    return f"{now!r} {uuid4().hex}"


def _time_of(transaction_id: str | None) -> float | None:
    return None if transaction_id is None else float(transaction_id.partition(" ")[0])


@dataclass(slots=True)
class Footprint:
    """The traces that this process has left in the server."""

    claim: Claim
    transaction_id: str | None = None
    """The last transaction under the replica's name that the server is known to have executed."""
    unconfirmed_id: str | None = None
    """A later one whose reply was lost."""

    def confirm(self, transaction_id: str | None) -> None:
        """Note the last transaction that the server has executed."""
        self.transaction_id, self.unconfirmed_id = transaction_id, None

    def find_rollback(self, holder: str | None, transaction_id: str | None) -> Rollback | None:
        """Return the data that the server has lost, given the traces that it has now; None if it has all.

        Raises NameTakenError if another process has claimed the name later.
        """
        number, process = _number(holder), (holder or "").partition(":")[2]
        if process != self.claim.process and number >= self.claim.number:
            raise NameTakenError(NAME_LOST)
        expected = {self.transaction_id, self.unconfirmed_id or self.transaction_id}
        if number >= self.claim.number and transaction_id in expected:
            return None
        return self.rollback_to(transaction_id)

    def rollback_to(self, transaction_id: str | None) -> Rollback:
        """Return the data that is lost if this transaction is the last one that the server still has."""
        return Rollback(_time_of(transaction_id), _time_of(self.transaction_id))


def restoring_commands(totals_key: Key, memory: Memory, stored_clock: float) -> Iterator[Command]:
    """Return the commands that write what this process has exported, instead of the older data.

    A listing of the projects is requested, because it finds lost instances again. `stored_clock` is the time
    up to which the server knows that instance-seconds were added; a later one that this process knows, of any
    replica, replaces it, with the downtime that belongs to it. The event keys are not complete any more.
    """
    yield ("DEL", totals_key, key("complete"))
    yield from replica_commands(totals_key, memory.totals)
    yield from shared_commands(memory.totals, memory.totals)
    if memory.settings.projects:
        yield ("SADD", key("requested"), *memory.settings.projects)
    if memory.beat_at is not None and memory.beat_at > stored_clock:
        yield ("SET", key("clock"), repr(memory.beat_at))
        yield ("SET", key("downtime"), repr(memory.downtime))
