"""Mutations of the JSON of an entry or an envelope: fields removed, moved, or of another type."""

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from tests.fuzz import hostile_values
from tests.fuzz.case_builder import CaseBuilder
from tests.support.entries import JsonObject
from tests.support.program import SUBSCRIPTIONS

Mutation: TypeAlias = Callable[[CaseBuilder, JsonObject], None]


def apply(builder: CaseBuilder, value: JsonObject, mutations: Sequence[Mutation]) -> None:
    """Apply one of the mutations to the value, and record its name."""
    mutation = builder.choose(mutations)
    builder.damage.append(mutation.__name__)
    mutation(builder, value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401  # JSON
    """Yield every container in a value, with each of its keys or indices."""
    stack = [value]
    while stack:
        container = stack.pop()
        for key in container if isinstance(container, dict) else range(len(container)):
            yield container, key
            if (
                container[key]
                and isinstance(container[key], dict | list)
                and len(stack) < hostile_values.DEEP
            ):
                stack.append(container[key])


def _place(builder: CaseBuilder, value: JsonObject) -> tuple[Any, Any]:
    places = list(_places(value))
    return builder.choose(places) if places else (value, "protoPayload")


def _hostile_value(builder: CaseBuilder) -> Any:  # noqa: ANN401  # JSON
    return hostile_values.fresh(builder.choose(hostile_values.VALUES))


def drop(builder: CaseBuilder, value: JsonObject) -> None:
    container, key = _place(builder, value)
    if isinstance(container, list) or key in container:
        del container[key]


def rename(builder: CaseBuilder, value: JsonObject) -> None:
    container, key = _place(builder, value)
    if isinstance(container, dict) and key in container:
        new = (
            key.upper(),
            f"{key} ",
            f"{key}\x00",
            builder.choose(hostile_values.TEXTS),
            key[:-1],
            builder.choose(_KEYS),
        )
        container[builder.choose(new)] = container.pop(key)


def replace(builder: CaseBuilder, value: JsonObject) -> None:
    container, key = _place(builder, value)
    container[key] = _hostile_value(builder)


def wrap(builder: CaseBuilder, value: JsonObject) -> None:
    container, key = _place(builder, value)
    old = container[key] if isinstance(container, list) else container.get(key)
    container[key] = builder.choose(([old], {"value": old}, str(old)[:2000], json.dumps(old)))


def swap(builder: CaseBuilder, value: JsonObject) -> None:
    (first, a), (second, b) = _place(builder, value), _place(builder, value)
    if a in first and b in second and not _contains(first[a], second) and not _contains(second[b], first):
        first[a], second[b] = second[b], first[a]


def _contains(value: Any, container: Any) -> bool:  # noqa: ANN401  # JSON
    if value is container:
        return True
    return isinstance(value, dict | list) and any(inner is container for inner, _ in _places(value))


def change_text(builder: CaseBuilder, value: JsonObject) -> None:
    texts = [(c, k) for c, k in _places(value) if isinstance(c[k], str)]
    if not texts:
        return
    container, key = builder.choose(texts)
    old, hostile = container[key], builder.choose(hostile_values.TEXTS)
    middle = builder.below(len(old) + 1)
    ways = (old + hostile, hostile + old, old[:middle] + hostile + old[middle:], old[:middle], old.swapcase())
    container[key] = builder.choose(ways)


def add(builder: CaseBuilder, value: JsonObject) -> None:
    containers = [value, *(c[k] for c, k in _places(value) if isinstance(c[k], dict))]
    builder.choose(containers)[builder.choose((*_KEYS, *hostile_values.TEXTS))] = _hostile_value(builder)


def change_time(builder: CaseBuilder, value: JsonObject) -> None:
    for name in builder.choose((("timestamp",), ("timestamp", "receiveTimestamp"))):
        value[name] = builder.choose(hostile_values.TIMES)


def _payload(value: JsonObject) -> JsonObject:
    payload = value.get("protoPayload")
    return payload if isinstance(payload, dict) else value


def change_method(builder: CaseBuilder, value: JsonObject) -> None:
    _payload(value)["methodName"] = builder.choose(hostile_values.METHODS)


def change_resource_name(builder: CaseBuilder, value: JsonObject) -> None:
    _payload(value)["resourceName"] = builder.choose(hostile_values.NAMES)


def change_labels(builder: CaseBuilder, value: JsonObject) -> None:
    request = _payload(value).setdefault("request", {})
    if not isinstance(request, dict):
        return
    labels = request.get("labels")
    pairs = labels if isinstance(labels, list) else []
    first = {"key": "goog-k8s-cluster-name", "value": _hostile_value(builder)}
    as_map = {str(p.get("key")): p.get("value") for p in pairs if isinstance(p, dict)}
    request["labels"] = builder.choose(
        ([first], [*pairs, first], [first, *pairs], as_map, [{}], [*pairs, None], [["key", "value"]], {}, "")
    )


def change_message_id(builder: CaseBuilder, value: JsonObject) -> None:
    message = value.get("message")
    for name in ("messageId", "message_id"):
        if isinstance(message, dict):
            message[name] = _hostile_value(builder)


def change_subscription(builder: CaseBuilder, value: JsonObject) -> None:
    value["subscription"] = hostile_values.fresh(
        builder.choose((*hostile_values.VALUES, *SUBSCRIPTIONS.values()))
    )


def change_publish_time(builder: CaseBuilder, value: JsonObject) -> None:
    message = value.get("message")
    if isinstance(message, dict):
        message["publishTime"] = message["publish_time"] = builder.choose(hostile_values.TIMES)
        value["deliveryAttempt"] = _hostile_value(builder)


def change_base64(builder: CaseBuilder, value: JsonObject) -> None:
    """Change the base64 of the data in a way that is invalid or unusual."""
    message = value.get("message")
    if not isinstance(message, dict) or not isinstance(message.get("data"), str):
        return
    data = message["data"]
    raw = data.encode(errors="replace")
    at = builder.below(len(data) + 1)
    message["data"] = builder.choose(
        (
            data.rstrip("="),
            data + "=",
            data[:at],
            f"{data[:at]}\n{data[at:]}",
            f"{data[:at]}*{data[at:]}",
            f"{data[:at]}={data[at:]}",
            data.replace("+", "-").replace("/", "_"),
            b64encode(raw).decode(),
            urlsafe_b64encode(raw).decode(),
            "",
            "\u00e9" + data,
        )
    )


_KEYS: Final = (
    "protoPayload",
    "methodName",
    "resourceName",
    "labels",
    "key",
    "value",
    "operation",
    "id",
    "timestamp",
    "status",
    "response",
    "message",
    "data",
    "attributes",
    "split",
)
_EVERYWHERE: Final = (drop, drop, rename, replace, replace, wrap, swap, change_text, change_text, add)
ENTRY: Final[Sequence[Mutation]] = (
    *_EVERYWHERE,
    change_time,
    change_method,
    change_resource_name,
    change_labels,
)
ENVELOPE: Final[Sequence[Mutation]] = (
    *_EVERYWHERE,
    change_message_id,
    change_subscription,
    change_publish_time,
    change_base64,
    change_base64,
)
