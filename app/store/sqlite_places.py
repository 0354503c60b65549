"""Where the SQLite store keeps an instance: at a number made of its name.

SQLite keeps rows of a numbered table in its tree's leaves alone, so that all the rest of the tree fits its
cache, and one page is read for an instance of a million. By its name, a row would be in every level of the
tree, and three pages would be read: https://www.sqlite.org/withoutrowid.html
"""

from functools import lru_cache
from typing import Final
from zlib import crc32

from app.domain.events import InstanceName

# A slot's 63 bits: 12 of the project, 31 of the rest of the name, 20 of which incarnation it is.
SLOTS_OF_PLACE: Final = 1 << 20
"""As many incarnations can have one place; they are those of a name, and of names of the same sum."""
_SLOTS_OF_PROJECT: Final = 1 << 51


def name_of(text: str) -> InstanceName:
    """The instance name that a row holds."""
    return InstanceName(*text.rsplit("/", 2))


def place_of(name: InstanceName) -> int:
    """The first slot in which an incarnation of the name may be. Part of the file's format."""
    project, zone, instance = name
    return first_place(project) + (crc32(f"{zone}/{instance}".encode()) >> 1) * SLOTS_OF_PLACE


@lru_cache(64)
def first_place(project: str) -> int:
    """The first slot of a project's instances. Part of the file's format."""
    return (crc32(project.encode()) >> 20) * _SLOTS_OF_PROJECT


def slots_of(project: str) -> tuple[int, int]:
    """The first and the last slot of a project's instances; those of another may be there too."""
    first = first_place(project)
    return first, first + _SLOTS_OF_PROJECT - 1
