"""The project's pages: their tables and their code blocks, as the tests compare them with the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
RUNBOOK: Final = DOCS / "runbook.md"
PAGES: Final = (
    README,
    *sorted(DOCS.glob("*.md")),
    *(ROOT / name for name in ("infra/gcp/README.md", "k8s/README.md", "findings/README.md")),
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
)
"""All pages for people, the README first."""


class Block(NamedTuple):
    """A code block of a page."""

    page: Path
    mark: str
    """The text of the HTML comment in the line above; empty without a comment."""

    language: str
    code: str
    output: str
    """The code block that follows directly; empty without one."""


_BLOCK: Final = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n)?"
    r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$"
    r"(?=(?:\n\n```\w*\n(?P<output>.*?)^```$)?)",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: Path, language: str = "") -> Iterator[Block]:
    """Yield the code blocks of a page in their order; with a language only its blocks."""
    for found in _BLOCK.finditer(page.read_text()):
        block = Block(page, *(found[name] or "" for name in ("mark", "language", "code", "output")))
        if language in ("", block.language):
            yield block


def rows(table: str) -> list[list[str]]:
    """Return the cells of the marked table, row by row, without its head. It is in exactly one page."""
    [marked] = [
        found[1]
        for page in PAGES
        for found in re.finditer(rf"<!-- {table} -->\n(.*?)<!-- /{table} -->", page.read_text(), re.DOTALL)
    ]
    lines = marked.strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: those of its headings as GitHub makes them, and its explicit ids."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def is_page_anchor(address: str, base: str) -> bool:
    """Return whether an absolute address below the base leads to a page of the repository and its anchor."""
    path, _, anchor = address.removeprefix(base).partition("#")
    page = ROOT / path
    return address.startswith(base) and page in PAGES and (not anchor or anchor in anchors(page))
