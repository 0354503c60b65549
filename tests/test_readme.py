"""The tables of the README have the values of the code."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from app.settings import describe
from app.web.problems import leaves, status_of
from tests.support.readme import README, rows


def test_every_setting_is_in_the_table_with_its_default_and_meaning() -> None:
    assert rows("settings") == [
        [f"`{key}`", f"`{default}`" if default else "", meaning] for key, default, meaning in describe()
    ]


def test_every_problem_is_in_the_table_with_its_status() -> None:
    listed = {(status, reason) for status, reason, _ in rows("problems")}

    assert listed == {(str(status_of(leaf).value), f"`{leaf.reason}`") for leaf in leaves()}


def families() -> Iterator[tuple[str, str, str]]:
    """Yield the name (of a counter as in queries), type and help text of each family of the exporter."""
    exposition, _ = Metrics().render("")
    for family in text_string_to_metric_families(exposition.decode()):
        if not family.name.startswith(("process_", "python_")):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield f"`{name}`", family.type, family.documentation


def test_every_series_is_in_the_table_with_its_type_and_help_text() -> None:
    listed = [(name, kind, meaning) for name, kind, _, meaning in rows("metrics")]

    assert sorted(listed) == sorted(families())


@pytest.mark.parametrize("mark", ["demo", "test"])
def test_each_of_the_two_commands_is_one_line(mark: str) -> None:
    found = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)\n```", README.read_text(), re.DOTALL)

    assert found is not None
    assert "\n" not in found[1]


def test_every_link_within_the_repository_leads_somewhere() -> None:
    text = README.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r'(?:\]\(|src="|srcset=")([^)"\s]+)', text)

    assert links
    for link in links:
        if link.startswith("#"):
            assert link.removeprefix("#") in anchors, link
        elif "://" not in link:
            assert (README.parent / link).exists(), link
