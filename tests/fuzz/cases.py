"""Nearly valid deliveries: each shape of entry that Google Cloud sends, with parts of it damaged.

Seed and number determine a case completely.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from app.metrics import Endpoint
from tests.fuzz.byte_mutations import mutated
from tests.fuzz.case_builder import MARKER, CaseBuilder
from tests.fuzz.deliveries import damage_headers, delivered, text_of
from tests.fuzz.json_mutations import ENTRY, apply
from tests.fuzz.shapes import SHAPES

_CASES_PER_NAME: Final = 8
"""The approximate number of cases with the same instance name; some create it, others interrupt it."""
_VALID_SHARE: Final = 0.04
_ALLOWED_OUTCOMES: Final = frozenset({"ignored", "tracked", "counted", "pending", "duplicate", "ended"})
_LEVELS: Final = (*["entry"] * 10, *["text"] * 3, *["envelope"] * 4, *["body"] * 2, "headers")
"""The parts that can be damaged; the entry is damaged most often."""

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A push, to be sent unchanged."""

    number: int
    shape: str
    endpoint: Endpoint
    body: bytes
    damage: tuple[str, ...] = ()
    """Names of the mutations in order; empty for a valid case."""
    outcomes: frozenset[str] = frozenset()
    """The outcomes that a 200 answer may have."""
    authorization: bytes | None = None
    """A value in place of the valid token's header; None: the valid token."""
    headers: Headers = ()


def case(seed: int, number: int) -> Case:
    """Return the numbered case."""
    builder = CaseBuilder(Random(f"{seed}/{number}"))  # noqa: S311  # reproducible, not secret
    shape = builder.choose(tuple(SHAPES))
    name = f"gke-{MARKER}-{max(number // _CASES_PER_NAME - builder.below(3), 0)}"
    entry, outcomes = SHAPES[shape](builder, name, number)
    by_method = "insert" in str(entry.get("protoPayload", {}).get("methodName", ""))
    endpoint: Endpoint = "creation" if by_method == (builder.below(20) > 0) else "interruption"
    if builder.rng.random() < _VALID_SHARE:
        body = delivered(builder, text_of(builder, entry), endpoint, number)
        builder.damage.clear()
        return Case(number, shape, endpoint, body, (), outcomes, None, tuple(builder.headers))
    levels = [builder.choose(_LEVELS) for _ in range(builder.choose((1, 1, 1, 2, 3)))]
    for _ in range(levels.count("entry")):
        apply(builder, entry, ENTRY)
    text = text_of(builder, entry)
    for _ in range(levels.count("text")):
        text = mutated(builder, text)
    body = delivered(builder, text, endpoint, number, levels.count("envelope"))
    for _ in range(levels.count("body")):
        body = mutated(builder, body)
    if "headers" in levels:
        damage_headers(builder)
    return Case(
        number,
        shape,
        endpoint,
        body,
        tuple(builder.damage),
        _ALLOWED_OUTCOMES,
        builder.authorization,
        tuple(builder.headers),
    )
