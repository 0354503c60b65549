"""The damage of a WAL that SQLite does not report: it drops everything behind the first bad checksum.

https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from struct import Struct
from sys import byteorder
from typing import Final, NamedTuple, TypeAlias

from app.domain.quantities import quantity
from app.store.sqlite.location import open_to_read

_HEADER: Final = Struct(">8I")
_FRAME: Final = Struct(">6I")
_BYTE_ORDERS: Final = {0x377F0682: "little", 0x377F0683: "big"}
"""The first word of a WAL, and the byte order of its checksums."""
_VERSION: Final = 3007000
_CHECKED_BYTES: Final = 8
"""The part of a frame's header that the checksum includes."""
_WORD_MASK: Final = 0xFFFFFFFF

_Checksum: TypeAlias = tuple[int, int]


class _Frame(NamedTuple):
    number: int
    """Beginning with 1."""
    is_current: bool
    """It was written since the last restart of the WAL, not before."""
    continues: bool
    """Its checksum fits to it and to the frame before it."""
    commits: bool
    """It is the last frame of a commit."""


@dataclass(slots=True)
class _Run:
    """Consecutive frames behind the damage: each continues the frame before it."""

    commits: int = 0
    is_current: bool = False

    @property
    def lost_commits(self) -> int:
        """The commits of the run that were durable: a single one may not have been completed.

        A commit that failed may be left behind the last one that succeeded, as a run of its own.
        """
        return self.commits if self.is_current and self.commits > 1 else 0


def find_wal_damage(path: str) -> str | None:
    """Return the damage of a WAL that costs durable commits; None if there is none, or no WAL.

    With `synchronous=FULL`, a commit begins only after the one before is on disk. So a crash leaves at most
    one commit with a bad checksum; more than one means that the file was damaged later.
    """
    try:
        with open_to_read(path) as wal:
            return _find_damage(wal)
    except FileNotFoundError:
        return None


def _find_damage(wal: FileIO) -> str | None:
    header = wal.read(_HEADER.size)
    first = wal.read(_FRAME.size)
    if len(header) < _HEADER.size or len(first) < _FRAME.size:
        return None
    magic, version, page_bytes, *_, one, two = _HEADER.unpack(header)
    order = _BYTE_ORDERS.get(magic)
    if order is None or version != _VERSION or _checksum((0, 0), header[:24], order) != (one, two):
        # The header is on disk before the first frame is written.
        return "the header of its WAL is damaged, so that none of the commits in it can be read"
    wal.seek(_HEADER.size)
    first_bad, runs = 0, list[_Run]()
    for frame in _frames(wal, header, page_bytes, order):
        if not first_bad and frame.continues and frame.is_current:
            continue
        if not first_bad or not frame.continues:
            runs.append(_Run())
        first_bad = first_bad or frame.number
        runs[-1].commits += frame.commits
        runs[-1].is_current |= frame.is_current
    lost = sum(run.lost_commits for run in runs)
    return (
        f"frame {first_bad} of its WAL is damaged, so that {quantity(lost, 'commit')} cannot be read"
        if lost
        else None
    )


def _frames(wal: FileIO, header: bytes, page_bytes: int, order: str) -> Iterator[_Frame]:
    """Yield the frames of the WAL, those of earlier generations too."""
    salts, before = header[16:24], _checksum_of(header)
    size = _FRAME.size + page_bytes
    number = 0
    while len(frame := wal.read(size)) == size:
        number += 1
        stored = _checksum_of(frame[: _FRAME.size])
        computed = _checksum(before, frame[:_CHECKED_BYTES] + frame[_FRAME.size :], order)
        yield _Frame(number, frame[8:16] == salts, computed == stored, frame[4:8] != bytes(4))
        before = stored


def _checksum_of(header: bytes) -> _Checksum:
    """Return the checksum at the end of the WAL's or a frame's header."""
    one, two = Struct(">2I").unpack(header[-8:])
    return one, two


def _checksum(before: _Checksum, content: bytes, order: str) -> _Checksum:
    """Return the checksum of the content that follows something with the checksum `before`."""
    words = array("I", content)
    if order != byteorder:
        words.byteswap()
    one, two = before
    pairs = iter(words)
    for first, second in zip(pairs, pairs, strict=True):
        one = (one + first + two) & _WORD_MASK
        two = (two + second + one) & _WORD_MASK
    return one, two
