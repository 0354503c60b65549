"""Immutable values: a decorator for dataclasses, and a fast constructor for named tuples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, dataclass_transform

_T = TypeVar("_T")
_Tuple = TypeVar("_Tuple", bound=tuple[Any, ...])


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_T]) -> type[_T]:
    """Make a slotted dataclass that only the type checker treats as frozen.

    A really frozen dataclass takes three times as long to create, and each event creates a dozen values.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


def maker(cls: type[_Tuple]) -> Callable[[tuple[Any, ...]], _Tuple]:
    """Return a constructor that takes a tuple of all fields and does not check it.

    It is faster than the constructor of the class, which is written in Python. Use it on the hot path.
    """
    return partial(tuple.__new__, cls)
