"""The preemptions in a project's operations.

An entry is `[operation, target, id, at]`: the operation's name, which is the `operation.id` of the log entry;
the path of the instance, which begins with `projects/`; the instance id, as text; and the time of the
operation, in seconds since the epoch. An operation that is not done is left to a later reading.

https://cloud.google.com/compute/docs/reference/rest/v1/globalOperations/aggregatedList
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from google.cloud.compute_v1.services.global_operations import GlobalOperationsClient
from google.cloud.compute_v1.services.global_operations.transports import GlobalOperationsRestTransport
from google.cloud.compute_v1.types import AggregatedListGlobalOperationsRequest, OperationAggregatedList
from google.cloud.compute_v1.types import Operation as _Operation

from app.gcp.compute.failures import Subject
from app.gcp.compute.pages import Source, Transport
from app.gcp.operations import PREEMPTED, instance_path
from app.gcp.values import epoch_seconds, is_valid_text

_FIELDS: Final = (
    "kind,nextPageToken,unreachables,warning/code,items/*/warning/code,"
    "items/*/operations(name,operationType,status,targetId,targetLink,insertTime)"
)
_DONE: Final = int(_Operation.Status.DONE)


class _Transport(Transport, GlobalOperationsRestTransport):
    """The library's transport."""


class _Entry(NamedTuple):
    """An operation's line; a tuple, because JSON encodes it as an array."""

    operation: str
    target: str
    id: str
    at: float


def _entry(operation: Any) -> _Entry | None:  # noqa: ANN401 - of protobuf
    target, at = instance_path(operation.target_link), epoch_seconds(operation.insert_time)
    if not operation.name or target is None or at is None:
        return None
    instance_id = str(operation.target_id or "")
    if not is_valid_text(operation.name, instance_id, *target.split("/")):
        return None
    return _Entry(operation.name, target, instance_id, at)


def _entries(_zone: str, scope: Any) -> Sequence[_Entry | None]:  # noqa: ANN401 - of protobuf
    # The filter only saves traffic, because a server may ignore it.
    return [
        _entry(operation)
        for operation in scope.operations
        if operation.operation_type == PREEMPTED and operation.status == _DONE
    ]


OPERATIONS: Final = Source(
    subject=Subject(
        "operations", "the permissions compute.globalOperations.list and compute.zoneOperations.list"
    ),
    client=GlobalOperationsClient,
    transport=_Transport,
    request=AggregatedListGlobalOperationsRequest,
    answer=OperationAggregatedList,
    kind="compute#operationAggregatedList",
    filter=f'operationType = "{PREEMPTED}"',
    fields=_FIELDS,
    entries_of=_entries,
)
