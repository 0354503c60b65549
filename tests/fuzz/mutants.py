"""Deliveries that are nearly right: each shape that Google Cloud sends, with something of it damaged.

A case follows from the seed and its number alone.
"""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias

from app.metrics import Endpoint
from tests.fuzz import hostile
from tests.support.entries import (
    JsonObject,
    cut_down,
    envelope,
    insert,
    legacy,
    preempted,
    system_event,
    without,
)
from tests.support.program import SUBSCRIPTIONS

MARKER: Final = "Zq7never"
"""It is in every mutant's text, and must be in no refusal."""
CLUSTERS: Final = ("tills", "ovens", "shelves", 'quo"ted\\', "\u202eright to left \U0001f600")
_ZONE: Final = "europe-west1-c"
_A_NAME: Final = 8
"""How many cases name the same instance, about: some create it, others interrupt it."""
_PLAIN: Final = 0.04
_ADMITTED: Final = frozenset({"ignored", "tracked", "counted", "pending", "duplicate"})

Head: TypeAlias = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One push, to be sent as it is."""

    number: int
    shape: str
    endpoint: Endpoint
    body: bytes
    damage: tuple[str, ...] = ()
    """What was done to it, in order; nothing for one that is sound."""
    outcomes: frozenset[str] = frozenset()
    """One of these becomes of it where it is sound."""
    authorization: bytes | None = None
    """In place of the good one."""
    headers: Head = ()


@dataclass(slots=True)
class _Draft:
    """A case in the making: an entry, then a text, then an envelope around it."""

    chance: Random
    damage: list[str] = field(default_factory=list)
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    authorization: bytes | None = None

    def one(self, options: Sequence[Any]) -> Any:  # noqa: ANN401  # of the options
        return options[int(self.chance.random() * len(options))]

    def below(self, limit: int) -> int:
        return int(self.chance.random() * limit)


def case(seed: int, number: int) -> Case:
    """The numbered case."""
    draft = _Draft(Random(f"{seed}/{number}"))  # noqa: S311  # to be repeated, not to be secret
    shape = draft.one(tuple(_SHAPES))
    entry, outcomes = _SHAPES[shape](
        draft, f"gke-{MARKER}-{max(number // _A_NAME - draft.below(3), 0)}", number
    )
    by_method = "insert" in str(entry.get("protoPayload", {}).get("methodName", ""))
    endpoint: Endpoint = "creation" if by_method == (draft.below(20) > 0) else "interruption"
    if draft.chance.random() < _PLAIN:
        body = _delivered(draft, _text(draft, entry), endpoint, number)
        draft.damage.clear()
        return Case(number, shape, endpoint, body, (), outcomes, None, tuple(draft.headers))
    levels = [draft.one(_LEVELS) for _ in range(draft.one((1, 1, 1, 2, 3)))]
    for _ in range(levels.count("entry")):
        _apply(draft, entry, _ENTRY)
    text = _text(draft, entry)
    for _ in range(levels.count("text")):
        text = _damaged(draft, text)
    body = _delivered(draft, text, endpoint, number, levels.count("envelope"))
    for _ in range(levels.count("body")):
        body = _damaged(draft, body)
    if "headers" in levels:
        _headers(draft)
    return Case(
        number,
        shape,
        endpoint,
        body,
        tuple(draft.damage),
        _ADMITTED,
        draft.authorization,
        tuple(draft.headers),
    )


_LEVELS: Final = (*["entry"] * 10, *["text"] * 3, *["envelope"] * 4, *["body"] * 2, "headers")
"""What is damaged, the entry most often."""

_Shape: TypeAlias = Callable[[_Draft, str, int], tuple[JsonObject, frozenset[str]]]

_CREATED: Final = frozenset({"tracked", "duplicate"})
_INTERRUPTED: Final = frozenset({"counted", "pending", "duplicate", "ignored"})
_IGNORED: Final = frozenset({"ignored"})


def _insert(**fields: Any) -> _Shape:  # noqa: ANN401  # `insert`'s own
    outcomes = _IGNORED if fields.keys() & {"last", "denied"} else _CREATED

    def make(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        made: JsonObject = {"cluster": draft.one(CLUSTERS), "zone": _ZONE, "operation": f"operation-{number}"}
        return insert(name, **(made | fields)), outcomes

    return make


def _preempted(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    at = f"2026-03-{1 + draft.below(28):02}T{draft.below(24):02}:40:55.308114Z"
    return preempted(name, zone=_ZONE, operation=f"systemevent-{number}", timestamp=at), _INTERRUPTED


def _other(*methods: str) -> _Shape:
    def make(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        entry = system_event(draft.one(methods), name, operation=f"systemevent-{number}")
        return without(entry, *draft.one(((), ("operation",), ("protoPayload.resourceName",)))), _IGNORED

    return make


def _without_response(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, outcomes = _insert(version="beta", project_number=None)(draft, name, number)
    entry["protoPayload"]["response"] = {}
    return entry, outcomes


def _bulk_parent(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, _ = _insert()(draft, name, number)
    entry["protoPayload"]["methodName"] = "v1.compute.instances.bulkInsert"
    del entry["protoPayload"]["resourceName"]
    return entry, _IGNORED


def _bulk_instance(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry = insert(name, zone=_ZONE, cluster=None, operation=f"operation-{number}")
    return entry, frozenset({"ignored", "duplicate"})


def _split(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, _ = _insert()(draft, name, number)
    del entry["protoPayload"]["request"]["labels"]
    entry["split"] = {"uid": entry["insertId"], "index": draft.below(3), "totalSplits": 3}
    return entry, _IGNORED


def _cut_down(of: _Shape) -> _Shape:
    def make(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        entry, outcomes = of(draft, name, number)
        return cut_down(entry), outcomes

    return make


def _legacy(draft: _Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    return legacy(name, zone=_ZONE), _IGNORED


_SHAPES: Final[dict[str, _Shape]] = {
    "insert": _insert(),
    "insert again": _insert(),
    "insert by a person": _insert(project_number=None),
    "insert, domain-scoped": _insert(project="example.com:shop", project_number=None),
    "insert, last": _insert(last=True),
    "insert, failed": _insert(last=True, failed=True),
    "insert, denied": _insert(denied=True),
    "insert, beta without response": _without_response,
    "insert, cut down": _cut_down(_insert()),
    "insert, bulk": _bulk_parent,
    "insert, of bulk": _bulk_instance,
    "insert, split": _split,
    "preempted": _preempted,
    "preempted again": _preempted,
    "preempted a third time": _preempted,
    "preempted, cut down": _cut_down(_preempted),
    "system event": _other(
        "compute.instances.hostError",
        "compute.instances.terminateOnHostMaintenance",
        "compute.instances.automaticRestart",
        "compute.instances.guestTerminate",
        "compute.instances.repair.recreateInstance",
    ),
    "legacy": _legacy,
}


def _text(draft: _Draft, entry: JsonObject) -> bytes:
    # Both spellings of what is not ASCII; lone surrogates then are invalid UTF-8.
    plain = draft.below(4) == 0
    text = json.dumps(entry, ensure_ascii=not plain).encode(errors="surrogatepass")
    return text + b"\n" if draft.below(2) else text


def _delivered(draft: _Draft, text: bytes, endpoint: Endpoint, number: int, damage: int = 0) -> bytes:
    subscription = f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[endpoint]}"
    way = draft.below(10)
    if way == 0:  # unwrapped
        return text
    if way == 1:  # unwrapped with metadata
        draft.headers += [
            ("x-goog-pubsub-message-id", str(number).encode()),
            ("x-goog-pubsub-subscription-name", subscription.encode()),
            ("x-goog-pubsub-publish-time", b"2026-03-02T11:40:56.204Z"),
        ]
        return text
    delivery = envelope(text, message_id=f"m{number}", subscription=subscription)
    delivery["message"]["attributes"] = {"logging.googleapis.com/timestamp": MARKER}
    if way == 2:  # replayed from the dead-letter topic
        delivery["subscription"] = "projects/shop-prod/subscriptions/replay"
        delivery["message"]["attributes"]["CloudPubSubDeadLetterSourceSubscription"] = SUBSCRIPTIONS[endpoint]
        delivery["deliveryAttempt"] = 6
    for _ in range(damage):
        _apply(draft, delivery, _ENVELOPE)
    return json.dumps(delivery).encode()


_Mutation: TypeAlias = Callable[[_Draft, JsonObject], None]


def _apply(draft: _Draft, value: JsonObject, mutations: Sequence[_Mutation]) -> None:
    mutation = draft.one(mutations)
    draft.damage.append(mutation.__name__)
    mutation(draft, value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401  # JSON
    """Every container that is in it, with each of its keys or indices."""
    stack = [value]
    while stack:
        container = stack.pop()
        for key in container if isinstance(container, dict) else range(len(container)):
            yield container, key
            if container[key] and isinstance(container[key], dict | list) and len(stack) < hostile.DEEP:
                stack.append(container[key])


def _place(draft: _Draft, value: JsonObject) -> tuple[Any, Any]:
    places = list(_places(value))
    return draft.one(places) if places else (value, "protoPayload")


def drop(draft: _Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    if isinstance(container, list) or key in container:
        del container[key]


def rename(draft: _Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    if isinstance(container, dict) and key in container:
        new = (key.upper(), f"{key} ", f"{key}\x00", draft.one(hostile.TEXTS), key[:-1], draft.one(_KEYS))
        container[draft.one(new)] = container.pop(key)


def replace(draft: _Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    container[key] = draft.one(hostile.VALUES)


def wrap(draft: _Draft, value: JsonObject) -> None:
    container, key = _place(draft, value)
    old = container[key] if isinstance(container, list) else container.get(key)
    container[key] = draft.one(([old], {"value": old}, str(old)[:2000], json.dumps(old)))


def swap(draft: _Draft, value: JsonObject) -> None:
    (one, a), (other, b) = _place(draft, value), _place(draft, value)
    if a in one and b in other and not _contains(one[a], other) and not _contains(other[b], one):
        one[a], other[b] = other[b], one[a]


def _contains(value: Any, container: Any) -> bool:  # noqa: ANN401  # JSON
    if value is container:
        return True
    return isinstance(value, dict | list) and any(place is container for place, _ in _places(value))


def respell(draft: _Draft, value: JsonObject) -> None:
    texts = [(c, k) for c, k in _places(value) if isinstance(c[k], str)]
    if not texts:
        return
    container, key = draft.one(texts)
    old, strange = container[key], draft.one(hostile.TEXTS)
    middle = draft.below(len(old) + 1)
    ways = (old + strange, strange + old, old[:middle] + strange + old[middle:], old[:middle], old.swapcase())
    container[key] = draft.one(ways)


def add(draft: _Draft, value: JsonObject) -> None:
    containers = [value, *(c[k] for c, k in _places(value) if isinstance(c[k], dict))]
    draft.one(containers)[draft.one((*_KEYS, *hostile.TEXTS))] = draft.one(hostile.VALUES)


def mistime(draft: _Draft, value: JsonObject) -> None:
    for name in draft.one((("timestamp",), ("timestamp", "receiveTimestamp"))):
        value[name] = draft.one(hostile.TIMES)


def _payload(value: JsonObject) -> JsonObject:
    payload = value.get("protoPayload")
    return payload if isinstance(payload, dict) else value


def remethod(draft: _Draft, value: JsonObject) -> None:
    _payload(value)["methodName"] = draft.one(hostile.METHODS)


def misname(draft: _Draft, value: JsonObject) -> None:
    _payload(value)["resourceName"] = draft.one(hostile.NAMES)


def relabel(draft: _Draft, value: JsonObject) -> None:
    request = _payload(value).setdefault("request", {})
    if not isinstance(request, dict):
        return
    pairs = request.get("labels") or []
    first = {"key": "goog-k8s-cluster-name", "value": draft.one(hostile.VALUES)}
    as_map = {str(p.get("key")): p.get("value") for p in pairs if isinstance(p, dict)}
    request["labels"] = draft.one(
        ([first], [*pairs, first], [first, *pairs], as_map, [{}], [*pairs, None], [["key", "value"]], {}, "")
    )


def reidentify(draft: _Draft, value: JsonObject) -> None:
    message = value.get("message")
    for name in ("messageId", "message_id"):
        if isinstance(message, dict):
            message[name] = draft.one(hostile.VALUES)


def resubscribe(draft: _Draft, value: JsonObject) -> None:
    value["subscription"] = draft.one((*hostile.VALUES, *SUBSCRIPTIONS.values()))


def republish(draft: _Draft, value: JsonObject) -> None:
    message = value.get("message")
    if isinstance(message, dict):
        message["publishTime"] = message["publish_time"] = draft.one(hostile.TIMES)
        value["deliveryAttempt"] = draft.one(hostile.VALUES)


def rebase(draft: _Draft, value: JsonObject) -> None:
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
_ENTRY: Final[Sequence[_Mutation]] = (*_EVERYWHERE, mistime, remethod, misname, relabel)
_ENVELOPE: Final[Sequence[_Mutation]] = (*_EVERYWHERE, reidentify, resubscribe, republish, rebase, rebase)

_FIELD: Final = re.compile(rb'"([A-Za-z_@]+)": ')
_NUMBERS: Final = (
    b"1e999999",
    b"-1e999999",
    b"0" * 50,
    b"9" * 5000,
    b"0x10",
    b"1.",
    b"+1",
    b"NaN",
    b"-Infinity",
)
_NESTINGS: Final = (b"[" * 2000, b'{"a":' * 2000, b"[" * 300 + b"]" * 300)
_BYTES: Final = (
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\x00",
    b"\xf4\x90\x80\x80",
    b"\\ud800",
    b"\\u0000",
    b"\\x",
)


def _damaged(draft: _Draft, text: bytes) -> bytes:
    way = draft.one(tuple(_TEXT))
    draft.damage.append(way)
    return _TEXT[way](draft, text, draft.below(len(text) + 1))


def _duplicated(draft: _Draft, text: bytes, at: int) -> bytes:
    """A field twice, with another value first or last."""
    found = _FIELD.search(text, at) or _FIELD.search(text)
    if found is None:
        return text
    try:
        value = json.dumps(draft.one(hostile.VALUES)).encode()
    except RecursionError:
        value = b"null"
    return text[: found.start()] + found[0] + value + b", " + text[found.start() :]


def _renumbered(draft: _Draft, text: bytes, at: int) -> bytes:
    found = _FIELD.search(text, at) or _FIELD.search(text)
    if found is None:
        return text
    number: bytes = draft.one(_NUMBERS + _NESTINGS)
    return text[: found.end()] + number + b', "x": ' + text[found.end() :]


def _flipped(draft: _Draft, text: bytes, at: int) -> bytes:
    flipped = bytearray(text)
    for _ in range(1 + draft.below(4)):
        if flipped:
            flipped[draft.below(len(flipped))] ^= 1 << draft.below(8)
    return bytes(flipped)


_TEXT: Final[dict[str, Callable[[_Draft, bytes, int], bytes]]] = {
    "cut": lambda _draft, text, at: text[:at],
    "beheaded": lambda _draft, text, at: text[at:],
    "flip": _flipped,
    "bytes": lambda draft, text, at: text[:at] + draft.one(_BYTES) + text[at:],
    "duplicate key": _duplicated,
    "duplicate key again": _duplicated,
    "number": _renumbered,
    "nested": lambda draft, text, at: text[:at] + draft.one(_NESTINGS) + text[at:],
    "byte order mark": lambda _draft, text, _at: b"\xef\xbb\xbf" + text,
    "utf-16": lambda _draft, text, _at: text.decode(errors="replace").encode("utf-16", errors="replace"),
    "twice": lambda _draft, text, _at: text + text,
    "whitespace": lambda draft, text, _at: draft.one((b" \t\r\n", b"\x0c", b"\xc2\xa0")) * 50 + text,
    "empty": lambda draft, _text, _at: draft.one((b"", b"null", b"[]", b"{}", b'""', b"0", b" ")),
    "repeated piece": lambda _draft, text, at: text[:at] + text[at : at + 40] * 20 + text[at:],
}


def _headers(draft: _Draft) -> None:
    draft.damage.append("headers")
    match draft.below(4):
        case 0:
            draft.authorization = draft.one(
                (
                    b"",
                    b"Bearer",
                    b"Bearer ",
                    b"Basic Zm9vOmJhcg==",
                    f"Bearer {MARKER}".encode(),
                    f"Bearer {MARKER}.{MARKER}.{MARKER}".encode(),
                    b"Bearer eyJhbGciOiJub25lIn0.e30.",
                    b"Bearer \xff\xfe",
                    b"Bearer " + b"a" * 9000,
                )
            )
        case 1:
            draft.headers.append(
                ("content-type", draft.one((b"", b"text/plain", b"application/json; charset=\xff")))
            )
        case 2:
            draft.headers.append(("content-encoding", draft.one((b"gzip", b"br", b"identity", b"\xff"))))
        case _:
            name = draft.one(("message-id", "publish-time", "subscription-name", "ordering-key"))
            value = draft.one(
                (b"", b"\xff\xfe", b"x" * 2000, b"%00", b"9999-99-99T99:99:99Z", MARKER.encode())
            )
            draft.headers.append((f"x-goog-pubsub-{name}", value))
