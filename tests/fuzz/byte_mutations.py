"""Mutations of bytes: JSON that is cut, doubled or nested, and bytes that are not text."""

import json
import re
from collections.abc import Callable
from typing import Final

from tests.fuzz import hostile_values
from tests.fuzz.case_builder import CaseBuilder

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


def mutated(builder: CaseBuilder, text: bytes) -> bytes:
    """Return the bytes with a random mutation, and record its name in the builder."""
    name = builder.choose(tuple(_MUTATIONS))
    builder.damage.append(name)
    return _MUTATIONS[name](builder, text, builder.below(len(text) + 1))


def _with_duplicate_key(builder: CaseBuilder, text: bytes, at: int) -> bytes:
    """Repeat a field's key, with a hostile value first."""
    found = _FIELD.search(text, at) or _FIELD.search(text)
    if found is None:
        return text
    try:
        value = json.dumps(builder.choose(hostile_values.VALUES)).encode()
    except RecursionError:
        value = b"null"
    return text[: found.start()] + found[0] + value + b", " + text[found.start() :]


def _with_number(builder: CaseBuilder, text: bytes, at: int) -> bytes:
    found = _FIELD.search(text, at) or _FIELD.search(text)
    if found is None:
        return text
    number: bytes = builder.choose(_NUMBERS + _NESTINGS)
    return text[: found.end()] + number + b', "x": ' + text[found.end() :]


def _with_flipped_bits(builder: CaseBuilder, text: bytes, at: int) -> bytes:
    flipped = bytearray(text)
    for _ in range(1 + builder.below(4)):
        if flipped:
            flipped[builder.below(len(flipped))] ^= 1 << builder.below(8)
    return bytes(flipped)


_MUTATIONS: Final[dict[str, Callable[[CaseBuilder, bytes, int], bytes]]] = {
    "cut": lambda _builder, text, at: text[:at],
    "cut at the start": lambda _builder, text, at: text[at:],
    "flip": _with_flipped_bits,
    "bytes": lambda builder, text, at: text[:at] + builder.choose(_BYTES) + text[at:],
    "duplicate key": _with_duplicate_key,
    "duplicate key again": _with_duplicate_key,
    "number": _with_number,
    "nested": lambda builder, text, at: text[:at] + builder.choose(_NESTINGS) + text[at:],
    "byte order mark": lambda _builder, text, _at: b"\xef\xbb\xbf" + text,
    "utf-16": lambda _builder, text, _at: text.decode(errors="replace").encode("utf-16", errors="replace"),
    "twice": lambda _builder, text, _at: text + text,
    "whitespace": lambda builder, text, _at: builder.choose((b" \t\r\n", b"\x0c", b"\xc2\xa0")) * 50 + text,
    "empty": lambda builder, _text, _at: builder.choose((b"", b"null", b"[]", b"{}", b'""', b"0", b" ")),
    "repeated piece": lambda _builder, text, at: text[:at] + text[at : at + 40] * 20 + text[at:],
}
