"""Damage to bytes, whatever they are: JSON that is cut, doubled, nested, or no text at all."""

import json
import re
from collections.abc import Callable
from typing import Final

from tests.fuzz import hostile
from tests.fuzz.draft import Draft

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


def damaged(draft: Draft, text: bytes) -> bytes:
    """The bytes with one of these done to them; which, the draft notes."""
    way = draft.one(tuple(_TEXT))
    draft.damage.append(way)
    return _TEXT[way](draft, text, draft.below(len(text) + 1))


def _duplicated(draft: Draft, text: bytes, at: int) -> bytes:
    """A field twice, with another value first or last."""
    found = _FIELD.search(text, at) or _FIELD.search(text)
    if found is None:
        return text
    try:
        value = json.dumps(draft.one(hostile.VALUES)).encode()
    except RecursionError:
        value = b"null"
    return text[: found.start()] + found[0] + value + b", " + text[found.start() :]


def _renumbered(draft: Draft, text: bytes, at: int) -> bytes:
    found = _FIELD.search(text, at) or _FIELD.search(text)
    if found is None:
        return text
    number: bytes = draft.one(_NUMBERS + _NESTINGS)
    return text[: found.end()] + number + b', "x": ' + text[found.end() :]


def _flipped(draft: Draft, text: bytes, at: int) -> bytes:
    flipped = bytearray(text)
    for _ in range(1 + draft.below(4)):
        if flipped:
            flipped[draft.below(len(flipped))] ^= 1 << draft.below(8)
    return bytes(flipped)


_TEXT: Final[dict[str, Callable[[Draft, bytes, int], bytes]]] = {
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
