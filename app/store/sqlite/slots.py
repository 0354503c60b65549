"""Where the SQLite store keeps an instance: at a number made of its name.

SQLite keeps the rows of a table by number in the leaves of its tree alone, so that all the rest of the tree
fits its cache, and one page is read for an instance of a million. By name, rows would be in every level of
the tree, and three pages would be read. https://www.sqlite.org/withoutrowid.html

The nodes of a managed instance group, whose names differ in their ends, are neighbours: they are often
created and interrupted together, and so change few pages.
"""

from functools import lru_cache
from typing import Final
from zlib import crc32

from app.domain.events import InstanceName

_END: Final = 4
"""So many characters at the end of a name GKE makes up for each node."""
_DIGITS: Final = 36
# A slot's 63 bits are 8 of the project's sum, 19 of the sum of the zone and of all but the end of the name,
# 21 of the end, in its order, and 15 of which incarnation it is.
SLOTS_OF_PLACE: Final = 1 << 15
"""As many incarnations can have one place: those of a name, and of the few that have the same sums."""
_SLOTS_OF_GROUP: Final = SLOTS_OF_PLACE << 21
_SLOTS_OF_PROJECT: Final = _SLOTS_OF_GROUP << 19


def name_of(text: str) -> InstanceName:
    """The instance name that a row holds."""
    return InstanceName(*text.rsplit("/", 2))


def place_of(name: InstanceName) -> int:
    """The first slot in which an incarnation of the name may be. Part of the file's format."""
    project, zone, instance = name
    return _first_slot_of_group(project, zone, instance[:-_END]) + _number(instance[-_END:]) * SLOTS_OF_PLACE


def slots_of(project: str) -> tuple[int, int]:
    """The first and the last slot of a project's instances; those of another may be there too."""
    first = _first_slot_of(project)
    return first, first + _SLOTS_OF_PROJECT - 1


@lru_cache(256)
def _first_slot_of_group(project: str, zone: str, beginning: str) -> int:
    return _first_slot_of(project) + (crc32(f"{zone}/{beginning}".encode()) >> 13) * _SLOTS_OF_GROUP


def _first_slot_of(project: str) -> int:
    return (crc32(project.encode()) >> 24) * _SLOTS_OF_PROJECT


def _number(end: str) -> int:
    if end.isalnum() and end.isascii():
        return int(end, _DIGITS)
    return crc32(end.encode()) % _DIGITS**_END
