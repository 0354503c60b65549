"""Damage to the structure of an entry or an envelope: fields that are gone, moved, or of another kind."""

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from tests.fuzz import hostile
from tests.fuzz.draft import Draft
from tests.support.entries import JsonObject
from tests.support.program import SUBSCRIPTIONS

Operator: TypeAlias = Callable[[Draft, JsonObject], None]


def apply(draft: Draft, value: JsonObject, operators: Sequence[Operator]) -> None:
    """Do one of these to the value, and note which."""
    operator = draft.one(operators)
    draft.damage.append(operator.__name__)
    operator(draft, value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401  # JSON
    """Every container that is in it, with each of its keys or indices."""
    stack = [value]
    while stack:
        container = stack.pop()
        for key in container if isinstance(container, dict) else range(len(container)):
            yield container, key
            if container[key] and isinstance(container[key], dict | list) and len(stack) < hostile.DEEP:
                stack.append(container[key])


def _place(draft: Draft, value: JsonObject) -> tuple[Any, Any]:
    places = list(_places(value))
    return draft.one(places) if places else (value, "protoPayload")


def drop(draft: Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    if isinstance(container, list) or key in container:
        del container[key]


def rename(draft: Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    if isinstance(container, dict) and key in container:
        new = (key.upper(), f"{key} ", f"{key}\x00", draft.one(hostile.TEXTS), key[:-1], draft.one(_KEYS))
        container[draft.one(new)] = container.pop(key)


def replace(draft: Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    container[key] = draft.one(hostile.VALUES)


def wrap(draft: Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    old = container[key] if isinstance(container, list) else container.get(key)
    container[key] = draft.one(([old], {"value": old}, str(old)[:2000], json.dumps(old)))


def swap(draft: Draft, value: JsonObject) -> None:
    (one, a), (other, b) = _place(draft, value), _place(draft, value)
    if a in one and b in other and not _contains(one[a], other) and not _contains(other[b], one):
        one[a], other[b] = other[b], one[a]


def _contains(value: Any, container: Any) -> bool:  # noqa: ANN401  # JSON
    if value is container:
        return True
    return isinstance(value, dict | list) and any(place is container for place, _ in _places(value))


def respell(draft: Draft, value: JsonObject) -> None:
    texts = [(c, k) for c, k in _places(value) if isinstance(c[k], str)]
    if not texts:
        return
    container, key = draft.one(texts)
    old, strange = container[key], draft.one(hostile.TEXTS)
    middle = draft.below(len(old) + 1)
    ways = (old + strange, strange + old, old[:middle] + strange + old[middle:], old[:middle], old.swapcase())
    container[key] = draft.one(ways)


def add(draft: Draft, value: JsonObject) -> None:
    containers = [value, *(c[k] for c, k in _places(value) if isinstance(c[k], dict))]
    draft.one(containers)[draft.one((*_KEYS, *hostile.TEXTS))] = draft.one(hostile.VALUES)


def mistime(draft: Draft, value: JsonObject) -> None:
    for name in draft.one((("timestamp",), ("timestamp", "receiveTimestamp"))):
        value[name] = draft.one(hostile.TIMES)


def _payload(value: JsonObject) -> JsonObject:
    payload = value.get("protoPayload")
    return payload if isinstance(payload, dict) else value


def remethod(draft: Draft, value: JsonObject) -> None:
    _payload(value)["methodName"] = draft.one(hostile.METHODS)


def misname(draft: Draft, value: JsonObject) -> None:
    _payload(value)["resourceName"] = draft.one(hostile.NAMES)


def relabel(draft: Draft, value: JsonObject) -> None:
    request = _payload(value).setdefault("request", {})
    if not isinstance(request, dict):
        return
    labels = request.get("labels")
    pairs = labels if isinstance(labels, list) else []
    first = {"key": "goog-k8s-cluster-name", "value": draft.one(hostile.VALUES)}
    as_map = {str(p.get("key")): p.get("value") for p in pairs if isinstance(p, dict)}
    request["labels"] = draft.one(
        ([first], [*pairs, first], [first, *pairs], as_map, [{}], [*pairs, None], [["key", "value"]], {}, "")
    )


def reidentify(draft: Draft, value: JsonObject) -> None:
    message = value.get("message")
    for name in ("messageId", "message_id"):
        if isinstance(message, dict):
            message[name] = draft.one(hostile.VALUES)


def resubscribe(draft: Draft, value: JsonObject) -> None:
    value["subscription"] = draft.one((*hostile.VALUES, *SUBSCRIPTIONS.values()))


def republish(draft: Draft, value: JsonObject) -> None:
    message = value.get("message")
    if isinstance(message, dict):
        message["publishTime"] = message["publish_time"] = draft.one(hostile.TIMES)
        value["deliveryAttempt"] = draft.one(hostile.VALUES)


def rebase(draft: Draft, value: JsonObject) -> None:
    """Damage to base64, which is the damage that it can have."""
    message = value.get("message")
    if not isinstance(message, dict) or not isinstance(message.get("data"), str):
        return
    data = message["data"]
    raw = data.encode(errors="replace")
    at = draft.below(len(data) + 1)
    message["data"] = draft.one(
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
_EVERYWHERE: Final = (drop, drop, rename, replace, replace, wrap, swap, respell, respell, add)
ENTRY: Final[Sequence[Operator]] = (*_EVERYWHERE, mistime, remethod, misname, relabel)
ENVELOPE: Final[Sequence[Operator]] = (*_EVERYWHERE, reidentify, resubscribe, republish, rebase, rebase)
