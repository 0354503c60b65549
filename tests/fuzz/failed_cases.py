"""A file of failed cases, to send them again."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fuzz.cases import Case


def write_failed(path: Path, failed: Iterable[tuple[Case, str]]) -> None:
    """Write cases and their errors, one JSON object per line."""
    with path.open("w") as file:
        for case, error in failed:
            record = {
                "number": case.number,
                "shape": case.shape,
                "endpoint": case.endpoint,
                "damage": case.damage,
                "outcomes": sorted(case.outcomes),
                "error": error,
                "body": b64encode(case.body).decode(),
                "authorization": None if case.authorization is None else case.authorization.decode("latin-1"),
                "headers": [(name, value.decode("latin-1")) for name, value in case.headers],
            }
            file.write(json.dumps(record) + "\n")


def read_failed(path: Path) -> Iterator[Case]:
    """Read the cases that `write_failed` has written."""
    for line in path.read_text().splitlines():
        record = json.loads(line)
        authorization = record["authorization"]
        yield Case(
            record["number"],
            record["shape"],
            record["endpoint"],
            b64decode(record["body"]),
            tuple(record["damage"]),
            frozenset(record["outcomes"]),
            None if authorization is None else authorization.encode("latin-1"),
            tuple((name, value.encode("latin-1")) for name, value in record["headers"]),
        )
