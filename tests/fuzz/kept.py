"""Failed cases in a file, to be sent once more."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fuzz.cases import Case


def write_failed(path: Path, failed: Iterable[tuple[Case, str]]) -> None:
    """Keep cases, so that they can be sent again."""
    with path.open("w") as file:
        for one, why in failed:
            kept = {
                "number": one.number,
                "shape": one.shape,
                "endpoint": one.endpoint,
                "damage": one.damage,
                "outcomes": sorted(one.outcomes),
                "why": why,
                "body": b64encode(one.body).decode(),
                "authorization": None if one.authorization is None else one.authorization.decode("latin-1"),
                "headers": [(name, value.decode("latin-1")) for name, value in one.headers],
            }
            file.write(json.dumps(kept) + "\n")


def read_failed(path: Path) -> Iterator[Case]:
    """The cases that were kept."""
    for line in path.read_text().splitlines():
        kept = json.loads(line)
        authorization = kept["authorization"]
        yield Case(
            kept["number"],
            kept["shape"],
            kept["endpoint"],
            b64decode(kept["body"]),
            tuple(kept["damage"]),
            frozenset(kept["outcomes"]),
            None if authorization is None else authorization.encode("latin-1"),
            tuple((name, value.encode("latin-1")) for name, value in kept["headers"]),
        )
