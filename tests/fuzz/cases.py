"""Deliveries that are nearly right: each shape that Google Cloud sends, with something of it damaged.

A case follows from the seed and its number alone.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from app.metrics import Endpoint
from tests.fuzz.deliveries import damage_headers, delivered, text_of
from tests.fuzz.draft import MARKER, Draft
from tests.fuzz.operators import ENTRY, apply
from tests.fuzz.shapes import SHAPES
from tests.fuzz.texts import damaged

_A_NAME: Final = 8
"""How many cases name the same instance, about: some create it, others interrupt it."""
_PLAIN: Final = 0.04
_ADMITTED: Final = frozenset({"ignored", "tracked", "counted", "pending", "duplicate"})
_LEVELS: Final = (*["entry"] * 10, *["text"] * 3, *["envelope"] * 4, *["body"] * 2, "headers")
"""What is damaged, the entry most often."""

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


def case(seed: int, number: int) -> Case:
    """The numbered case."""
    draft = Draft(Random(f"{seed}/{number}"))  # noqa: S311  # to be repeated, not to be secret
    shape = draft.one(tuple(SHAPES))
    name = f"gke-{MARKER}-{max(number // _A_NAME - draft.below(3), 0)}"
    entry, outcomes = SHAPES[shape](draft, name, number)
    by_method = "insert" in str(entry.get("protoPayload", {}).get("methodName", ""))
    endpoint: Endpoint = "creation" if by_method == (draft.below(20) > 0) else "interruption"
    if draft.chance.random() < _PLAIN:
        body = delivered(draft, text_of(draft, entry), endpoint, number)
        draft.damage.clear()
        return Case(number, shape, endpoint, body, (), outcomes, None, tuple(draft.headers))
    levels = [draft.one(_LEVELS) for _ in range(draft.one((1, 1, 1, 2, 3)))]
    for _ in range(levels.count("entry")):
        apply(draft, entry, ENTRY)
    text = text_of(draft, entry)
    for _ in range(levels.count("text")):
        text = damaged(draft, text)
    body = delivered(draft, text, endpoint, number, levels.count("envelope"))
    for _ in range(levels.count("body")):
        body = damaged(draft, body)
    if "headers" in levels:
        damage_headers(draft)
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
