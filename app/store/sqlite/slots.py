"""The slot of each incarnation: the number under which its row is stored, computed from its name.

A rowid table keeps its rows in the leaves of a B-tree only. The inner pages fit in the cache, so finding one
of a million instances reads one page. With the name as the key, rows would be at every level of the tree,
and three pages would be read. https://www.sqlite.org/withoutrowid.html

The names of the nodes of one managed instance group differ at their end only. They get neighbouring slots,
because such nodes are often created and interrupted together; so few pages change.
"""

from functools import lru_cache
from typing import Final
from zlib import crc32

from app.domain.events import InstanceName

_SUFFIX_LENGTH: Final = 4
"""The number of characters at the end of a name that GKE generates for each node."""
_DIGITS: Final = 36
# The 63 bits of a slot: 8 of the project's checksum; 19 of the checksum of the zone and of the name without
# its suffix; 21 of the suffix, in its order; 15 for the number of the incarnation.
BUCKET_SLOTS: Final = 1 << 15
"""The number of incarnations in one bucket: those of a name, and of the few names with the same checksums."""
_GROUP_SLOTS: Final = BUCKET_SLOTS << 21
_PROJECT_SLOTS: Final = _GROUP_SLOTS << 19


def bucket_of(name: InstanceName) -> int:
    """Return the first slot that an incarnation of the name may have. This is part of the file's format."""
    project, zone, instance = name
    return (
        _first_slot_of_group(project, zone, instance[:-_SUFFIX_LENGTH])
        + _number(instance[-_SUFFIX_LENGTH:]) * BUCKET_SLOTS
    )


def slots_of(project: str) -> tuple[int, int]:
    """Return the first and the last slot of a project. Other projects may have the same slots."""
    first = _first_slot_of(project)
    return first, first + _PROJECT_SLOTS - 1


@lru_cache(256)
def _first_slot_of_group(project: str, zone: str, prefix: str) -> int:
    return _first_slot_of(project) + (crc32(f"{zone}/{prefix}".encode()) >> 13) * _GROUP_SLOTS


def _first_slot_of(project: str) -> int:
    return (crc32(project.encode()) >> 24) * _PROJECT_SLOTS


def _number(suffix: str) -> int:
    if suffix.isalnum() and suffix.isascii():
        return int(suffix, _DIGITS)
    return crc32(suffix.encode()) % _DIGITS**_SUFFIX_LENGTH
