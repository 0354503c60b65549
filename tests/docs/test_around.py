"""The files around the pages: issue forms, the package's links, and the source distribution."""

import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Final

import pytest
import yaml

from app import DOCS_URL
from tests.support.docs import DOCS, PAGES, ROOT

FORMS: Final = ROOT / ".github/ISSUE_TEMPLATE"
BASE: Final = DOCS_URL.removesuffix("/docs")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ("bug.yaml", "vendor.github-issue-forms"),
        ("idea.yaml", "vendor.github-issue-forms"),
        ("config.yml", "vendor.github-issue-config"),
    ],
)
def test_an_issue_form_conforms_to_its_schema(form: str, schema: str) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, FORMS / form],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_form_is_checked() -> None:
    assert {path.name for path in FORMS.iterdir()} == {"bug.yaml", "idea.yaml", "config.yml"}


def test_the_links_of_the_package_and_of_the_forms_lead_to_pages() -> None:
    config = yaml.safe_load((FORMS / "config.yml").read_text())
    addresses = {*PROJECT["urls"].values(), *(link["url"] for link in config["contact_links"])}
    pages = {f"{BASE}/{page.relative_to(ROOT)}" for page in PAGES}

    assert {f"{BASE}/docs/index.md", f"{BASE}/CHANGELOG.md"} < addresses
    # The repository itself and its issues are not pages.
    assert addresses - pages == {BASE, f"{BASE}/issues"}


def test_the_source_distribution_has_every_page_and_picture(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [archive] = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}

    assert {str(path.relative_to(ROOT)) for path in (*PAGES, *(DOCS / "images").iterdir())} <= names
