"""The tables of the README that tests compare with the code."""

import re
from pathlib import Path
from typing import Final

_README: Final = Path(__file__).parent.parent.parent / "README.md"


def rows(table: str) -> list[list[str]]:
    """Return the cells of the marked table, row by row, without its head."""
    text = _README.read_text()
    marked = re.search(rf"<!-- {table} -->\n(.*?)<!-- /{table} -->", text, re.DOTALL)
    assert marked is not None, f"the README has no table {table}"
    lines = marked[1].strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
