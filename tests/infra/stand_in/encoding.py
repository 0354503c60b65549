"""The encoding of the schemas for Terraform's plugin protocol, version 5.

https://github.com/hashicorp/terraform/blob/main/docs/plugin-protocol/tfplugin5.proto
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

_PRIMITIVES: Final = {"string", "number", "bool"}
_NESTINGS: Final = {"list": 2, "set": 3}


def encoded_schemas(types: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the answer to GetSchema: the schemas of the provider, of its resources and its data sources."""
    numbers = {"resources": 2, "data": 3}
    return b"".join(
        [
            _message(1, _schema(types["provider"])),
            *(
                _message(number, _text(1, name) + _message(2, _schema(body)))
                for kind, number in numbers.items()
                for name, body in types[kind].items()
            ),
            # Capabilities: Terraform may read the schemas once and keep them.
            _message(6, _number(2, 1)),
        ]
    )


def _schema(body: Mapping[str, Any]) -> bytes:
    return _number(1, 0) + _message(2, _block(body))


def _block(body: Mapping[str, Any]) -> bytes:
    return b"".join(_members(body))


def _members(body: Mapping[str, Any]) -> Iterator[bytes]:
    for name, given in body.items():
        if name == "block":
            continue
        if isinstance(given, str):
            yield _message(2, _attribute(name, given))
        else:
            nesting, least, most = re.fullmatch(r"(list|set) (\d+)\.\.(\d*)", given["block"]).groups()  # type: ignore[union-attr]
            yield _message(
                3,
                _text(1, name)
                + _message(2, _block(given))
                + _number(3, _NESTINGS[nesting])
                + _number(4, int(least))
                + _number(5, int(most or 0)),
            )


def _attribute(name: str, given: str) -> bytes:
    kind, *modes = given.split()
    numbers = {"required": 4, "optional": 5, "computed": 6}
    return (
        _text(1, name)
        + _text(2, json.dumps(type_of(kind)))
        + b"".join(_number(numbers[mode], 1) for mode in modes)
    )


def type_of(text: str) -> Any:  # noqa: ANN401  # JSON
    """Return a type such as `list(object(name=string))` as the protocol's JSON has it."""
    if text in _PRIMITIVES:
        return text
    outer, inner = re.fullmatch(r"(\w+)\((.*)\)", text).groups()  # type: ignore[union-attr]
    if outer != "object":
        return [outer, type_of(inner)]
    return [outer, {name: type_of(kind) for name, kind in map(_halves, _parts(inner))}]


def _halves(part: str) -> tuple[str, str]:
    name, _, kind = part.partition("=")
    return name, kind


def _parts(text: str) -> Iterator[str]:
    """Yield the parts between the commas that are not inside of parentheses."""
    depth, begin = 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    more = value >> 7
    return bytes([value & 0x7F | 0x80]) + _varint(more) if more else bytes([value])
