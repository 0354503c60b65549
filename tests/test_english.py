"""The language of the project: words that it does not use, and the beginnings of docstrings.

The reader is an engineer in an incident whose second language is English: short main clauses, and the usual
word for each thing. `.ci/run` also checks the spelling with codespell.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from tests.support.docs import PAGES, ROOT

FOLDERS: Final = ("app", "tests", "infra", "k8s")
RELATIVE_WORDS: Final = frozenset({"How", "Of", "That", "What", "Where", "Whether", "Which"})

PREFERRED: Final = {
    r"tells": "report, say, describe",
    r"told": "reported, said, described",
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again",
    r"afresh": "again",
    r"besides": "in addition",
    r"bear(s|ing)?": "have, accept",
    r"hears?|heard": "receive, learn",
    r"whom": "a main clause",
    r"thereby|thereof|therein|thereupon|wherein|whereby": "a main clause",
    r"likewise": "also, the same",
    r"whence|thence|hence": "from there, so",
    r"in the midst|amid": "during",
    r"nought|naught|aught": "nothing",
    r"lest": "so that … not",
    r"seldom": "rarely",
    r"ought": "should",
    r"so that there": "a shorter sentence",
    # "there is no X" and "is no longer" are plain.
    r"(?<!there )(?<!\bThere )(is|are|was|were) no (?!longer\b|more\b)(?=[a-z])": "is not a",
    r"for it (is|was|has|does|can|may)": "because it",
    # One word for one thing.
    r"verdicts?": "outcome, reason",
    r"chores?": "periodic work",
    r"lulls?": "pause",
    r"the sweep|sweeps|sweeping": "listing, reconcile",
}
_AVOIDED: Final = [(re.compile(rf"(?i)\b(?:{word})\b"), instead) for word, instead in PREFERRED.items()]
_TEXT_SUFFIXES: Final = frozenset(
    {".md", ".yaml", ".yml", ".json", ".tf", ".hcl", ".tftpl", ".conf", ".html", ".sh", ".toml", ""}
)


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


def names_of_tests(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each test, as words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.removeprefix("test_").replace("_", " ")


def prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each comment and each string: docstrings, messages, help."""
    strings = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in strings:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line of a file that people read, or the comments and strings of a program."""
    if path.suffix == ".py":
        yield from prose_of_python(path.read_text())
        yield from names_of_tests(path.read_text())
    elif path.suffix in _TEXT_SUFFIXES:
        yield from enumerate(path.read_text().splitlines(), 1)


def avoided_words(text: str) -> list[str]:
    """Return the words that the project does not use. Code in backticks is not prose."""
    prose = re.sub(r"`[^`]*`", "``", text)
    return [f"{found[0]!r}: rather {instead}" for word, instead in _AVOIDED for found in word.finditer(prose)]


def published(where: str) -> Iterator[Path]:
    """Yield the files whose prose people read. The cloud's tools keep their own files in hidden folders."""
    root = ROOT / where
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(root).parts[:-1])
        # This file has the words as data.
        if path.is_file() and not hidden and path != Path(__file__):
            yield path


PUBLISHED: Final = (
    *(
        "app",
        "docs",
        "findings",
        "infra",
        "k8s",
        "tests",
        ".github",
        ".ci",
        "Dockerfile",
        "docker-compose.yaml",
        "pyproject.toml",
    ),
    *(str(page.relative_to(ROOT)) for page in PAGES if page.parent == ROOT),
)


@pytest.mark.parametrize("where", PUBLISHED)
def test_people_read_plain_words(where: str) -> None:
    files = list(published(where))
    found = [
        f"{path.relative_to(ROOT)}:{line}: {problem}"
        for path in files
        for line, text in prose_of(path)
        for problem in avoided_words(text)
    ]

    assert files
    assert found == []


def test_no_name_of_a_test_begins_with_a_relative_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, name in names_of_tests(path.read_text())
        if begins_with_a_relative_word(name.capitalize())
    ]

    assert found == []


def test_the_name_of_a_test_is_prose() -> None:
    source = "class Some:\n    def test_what_is_told_counts(self) -> None: ...\n\n\ndef helper(): ...\n"

    assert list(names_of_tests(source)) == [(2, "what is told counts")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The log tells which it was.", ["tells"]),
        ("No rate is told below ten hours.", ["told"]),
        ("The file is no database.", ["is no "]),
        ("There is no database, and it is no longer needed.", []),
        ("`told` is a name.", []),
        ("The sweep begins anew.", ["anew", "The sweep"]),
        ("The ninth part of the string is hereditary.", []),
    ],
)
def test_an_avoided_word_is_found_as_a_whole_word(text: str, words: list[str]) -> None:
    assert [problem.split("'")[1] for problem in avoided_words(text)] == words


def test_the_prose_of_a_program_is_its_comments_and_strings() -> None:
    source = 'def told():\n    """Say it.\n\n    More."""\n    return f"x {told}"  # a comment\n'

    found = " ".join(text for _, text in prose_of_python(source))
    assert "Say it." in found
    assert "a comment" in found
    assert "def" not in found


COUNTED: Final = re.compile(
    r"\s(commits|creations|entries|events|fields|instances|interruptions|keys|messages|pages|preemptions|projects"
    r"|replicas|rows|series|warnings)\b"
)
"""Nouns of the project that follow a number."""


def variable_plurals(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text after each value that a plural follows, except after a constant."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for value, text in pairwise(node.values):
                if (
                    isinstance(value, ast.FormattedValue)
                    and not ast.unparse(value.value).isupper()
                    and isinstance(text, ast.Constant)
                    and isinstance(text.value, str)
                    and COUNTED.match(text.value)
                ):
                    yield node.lineno, text.value


def test_a_message_has_a_singular_for_the_number_1() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}:{text}"
        for path in sorted((ROOT / "app").rglob("*.py"))
        for line, text in variable_plurals(path.read_text())
    ]

    assert found == [], "use `quantity`, or on the status page `count_noun`"


LOGGED: Final = frozenset({"debug", "info", "warning", "error", "exception"})
OF_THE_PROCESS: Final = {"started", "stopping", "stopped"}
"""Lines about the whole process, whose logger is their subject."""


def logged_messages(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each message that is logged as a constant."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func
            is_logger = isinstance(called, ast.Attribute) and ast.unparse(called.value) == "_log"
            if is_logger and isinstance(called, ast.Attribute) and called.attr in LOGGED:
                yield node.lineno, str(node.args[0].value)


def test_a_log_line_has_a_subject() -> None:
    messages = [
        (f"{path.relative_to(ROOT)}:{line}", message)
        for path in sorted((ROOT / "app").rglob("*.py"))
        for line, message in logged_messages(path.read_text())
    ]

    assert len(messages) > len(OF_THE_PROCESS)
    assert [found for found in messages if " " not in found[1] and found[1] not in OF_THE_PROCESS] == []
