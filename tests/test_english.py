"""The language of the docstrings: a docstring starts with a noun phrase or a verb."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
FOLDERS: Final = ("app", "tests", "infra", "k8s")
RELATIVE_WORDS: Final = frozenset({"How", "Of", "That", "What", "Where", "Whether", "Which"})


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring, also of those that follow an attribute."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                text = statement.value.value
                if isinstance(text, str):
                    yield statement.lineno, text.strip()


def begins_with_a_relative_word(text: str) -> bool:
    return text.replace(",", " ").replace(":", " ").split(" ", 1)[0].strip("`*\n") in RELATIVE_WORDS


def violations(folder: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted(folder.rglob("*.py"))
        for line, text in docstrings(path.read_text())
        if begins_with_a_relative_word(text)
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_with_a_relative_word(folder: str) -> None:
    assert violations(ROOT / folder) == []


@pytest.mark.parametrize(
    ("source", "is_wrong"),
    [
        pytest.param('"""What it does."""', True, id="module"),
        pytest.param('def function():\n    """Whether it is."""', True, id="function"),
        pytest.param('class Some:\n    """Some."""\n\n    x: int\n    """How many."""', True, id="attribute"),
        pytest.param('"""Of all: some."""', True, id="of"),
        pytest.param('"""The number of whatever."""', False, id="noun-phrase"),
        pytest.param('"""Whatever it is."""', False, id="longer-word"),
        pytest.param('text = """What it does."""', False, id="not-a-docstring"),
    ],
)
def test_a_relative_word_is_found_at_the_beginning_of_any_docstring(source: str, *, is_wrong: bool) -> None:
    assert any(begins_with_a_relative_word(text) for _, text in docstrings(source)) is is_wrong
