"""JSON as typed dictionaries, whose fields are named by the paths at which they stand.

https://docs.pydantic.dev/latest/concepts/alias/#using-aliaspath-and-aliaschoices
"""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import AliasPath, Field, TypeAdapter
from pydantic_core import CoreConfig, SchemaValidator

_Wire = TypeVar("_Wire")


def path(*names: str) -> Any:  # noqa: ANN401  # as `Field` itself: for `Annotated`
    """Where a field stands. A path that leads through something other than an object finds nothing."""
    return Field(validation_alias=AliasPath(*names))


def reader(wire: type[_Wire]) -> Callable[[bytes], _Wire]:
    """Reads a JSON object; raises pydantic's ValidationError, which shows nothing of what was read.

    A dictionary, because it is made faster than a model. Paths, not nested ones: the list of what matters
    in one place.
    """
    # Only the outermost configuration hides what was read, and an adapter gives a typed dictionary none.
    config = CoreConfig(hide_input_in_errors=True)
    return SchemaValidator(TypeAdapter(wire).core_schema, config).validate_json
