"""Values: dataclasses that nobody changes, and named tuples, and how they are quick to make."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, dataclass_transform

_T = TypeVar("_T")
_Tuple = TypeVar("_Tuple", bound=tuple[Any, ...])


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_T]) -> type[_T]:
    """A slotted dataclass that the type checker holds to be frozen.

    It alone: what Python itself freezes takes three times as long to make, and every event makes a dozen.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


def maker(cls: type[_Tuple]) -> Callable[[tuple[Any, ...]], _Tuple]:
    """Makes a named tuple of a tuple of all its fields, which nothing checks.

    It is faster than the own constructor of the class, which is written in Python: use it on the hot path.
    """
    return partial(tuple.__new__, cls)
