"""The pages: their size, their links, and a mark on every command that says how it is tested."""

import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from app import DOCS_URL, VERSION
from tests.support.docs import DOCS, PAGES, README, ROOT, anchors, blocks

# Marks whose commands a test runs, or compares with something that CI runs.
TESTED: Final = frozenset(
    {"demo", "test", "start", "by hand", "run", "dashboard", "variables", "overlay", "overlay outside"}
    | {"backup", "compose", "takes minutes", "terraform"}
    | {"API server"}  # tests/k8s/test_real_api_server.py, where the server is built
)
# Marks of commands that cannot run here, and the programs that make it so.
UNTESTED: Final = {
    "needs a cloud": ("gcloud", "kubectl", "terraform", "https://$HOST"),
    "needs Docker": ("docker",),
}
# Files that the reader of a page creates.
MADE_BY_READERS: Final = ("k8s/overlays/site", "infra/site")
_LINK: Final = re.compile(r'(?:\]\(|src="|srcset=")([^)"\s]+)')
_IMAGE_BYTES: Final = 200_000
VERSIONED: Final = [
    *sorted(ROOT.glob("infra/gcp/examples/*/main.tf")),
    ROOT / "k8s/base/kustomization.yaml",
    ROOT / "k8s/restore/pod.yaml",
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return the page without its code blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_readme_is_a_page_that_people_read() -> None:
    assert 150 <= len(README.read_text().splitlines()) <= 220


@each_page
def test_no_line_is_longer_than_a_screen_is_wide(page: Path) -> None:
    text = README.read_text() if page == README else prose(page)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "<img alt="))]

    assert [line for line in lines if len(line) > 200] == []


@each_page
def test_every_link_leads_to_a_file_and_an_anchor_of_it(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_a_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:app|tests|k8s|infra|docs|findings|\.github|\.ci)/[\w./-]+)`", page.read_text())

    assert [
        name for name in named if not name.startswith(MADE_BY_READERS) and not (ROOT / name).exists()
    ] == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_the_index_links_to_every_page(page: Path) -> None:
    index = DOCS / "index.md"

    assert page == index or f"({page.name})" in index.read_text()


@each_page
def test_the_headings_of_a_page_have_different_anchors(page: Path) -> None:
    headings = Counter(re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE))
    # The changelog repeats its headings in each release.
    assert page.name == "CHANGELOG.md" or [name for name, count in headings.items() if count > 1] == []


@each_page
def test_every_command_has_a_mark_that_says_how_it_is_tested(page: Path) -> None:
    for block in blocks(page, "sh"):
        assert block.mark in TESTED | UNTESTED.keys(), block.code
        if block.mark in UNTESTED:
            assert any(program in block.code for program in UNTESTED[block.mark]), block.code


@pytest.mark.parametrize("mark", sorted(TESTED - {"backup"}))
def test_every_mark_is_used(mark: str) -> None:
    assert [block for page in PAGES for block in blocks(page, "sh") if block.mark == mark]


@pytest.mark.parametrize("mark", ["demo", "test"])
def test_each_of_the_two_commands_is_one_line(mark: str) -> None:
    [command] = [block for block in blocks(README) if block.mark == mark]

    assert command.language == "sh"
    assert command.code.count("\n") == 1


def test_the_pages_name_the_current_version() -> None:
    text = "".join(page.read_text() for page in PAGES if page.name != "CHANGELOG.md")
    named = re.findall(r"(?:\?ref=v|:)(\d+\.\d+\.\d+)\b(?![.\d])", text)

    assert len(named) > 5
    assert set(named) == {VERSION}


@pytest.mark.parametrize("file", VERSIONED, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_manifests_and_the_examples_name_the_current_version(file: Path) -> None:
    named = re.findall(r"(?:\?ref=v|spot-interruption-exporter:|newTag: )(\d+\.\d+\.\d+)", file.read_text())

    assert set(named) == {VERSION}


def test_every_absolute_address_of_the_documentation_is_a_page() -> None:
    base = DOCS_URL.removesuffix("docs")
    texts = (page.read_text() for page in PAGES)
    addresses = {found for text in texts for found in re.findall(rf"{re.escape(base)}[\w/.-]+\.md", text)}

    assert addresses
    assert [one for one in addresses if not (ROOT / one.removeprefix(base)).exists()] == []


@pytest.mark.parametrize("image", sorted((DOCS / "images").iterdir()), ids=lambda image: image.name)
def test_an_image_is_shown_and_small(image: Path) -> None:
    assert any(f"images/{image.name}" in page.read_text() for page in PAGES)
    assert image.stat().st_size <= _IMAGE_BYTES
