"""JSON as typed dictionaries whose fields are named by their paths, and the fields of a log entry.

https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry,
https://docs.pydantic.dev/latest/concepts/alias/#using-aliaspath-and-aliaschoices
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pydantic import AliasPath, Field, TypeAdapter
from pydantic_core import CoreConfig, SchemaValidator

_Wire = TypeVar("_Wire")

_LOG_ENTRY_FIELDS: Final = frozenset({"protoPayload", "jsonPayload", "textPayload", "logName", "insertId"})


def path(*names: str) -> Any:  # noqa: ANN401  # as `Field` itself: for `Annotated`
    """Return the annotation of a field at this path. A path through anything but objects finds nothing."""
    return Field(validation_alias=AliasPath(*names))


def reader(wire: type[_Wire]) -> Callable[[bytes], _Wire]:
    """Return a function that reads a JSON object, or raises a ValidationError that does not show its input.

    A typed dictionary is faster to make than a model. With paths instead of nested types, one list has all
    the fields that matter.
    """
    # Only the outermost configuration hides the input, and an adapter gives a typed dictionary none.
    config = CoreConfig(hide_input_in_errors=True)
    return SchemaValidator(TypeAdapter(wire).core_schema, config).validate_json


def is_log_entry(fields: Mapping[str, object]) -> bool:
    """Return True if an object has a field of log entries; a Pub/Sub envelope has none of them."""
    return not _LOG_ENTRY_FIELDS.isdisjoint(fields)
