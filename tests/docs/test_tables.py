"""The tables of the pages have the values of the code."""

import re
from collections.abc import Iterator

import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.gcp.listing import FAILURES
from app.metrics import Metrics
from app.settings import describe
from app.store.redis.rows import SCHEMA
from app.store.sqlite.schema import MIGRATIONS
from app.web.problems import leaves, status_of
from tests.support.docs import README, ROOT, rows
from tests.support.program import run


def test_every_setting_is_in_the_table_with_its_default_and_meaning() -> None:
    assert rows("settings") == [
        [f"`{key}`", f"`{default}`" if default else "", meaning] for key, default, meaning in describe()
    ]


def test_every_problem_is_in_the_table_with_its_status() -> None:
    listed = {(status, reason) for status, reason, _ in rows("problems")}

    assert listed == {(str(status_of(leaf).value), f"`{leaf.reason}`") for leaf in leaves()}


def test_the_newest_release_has_the_versions_of_the_stores() -> None:
    newest = rows("schema-versions")[0]

    assert newest[1] == f"SQLite: `SIE2` version {len(MIGRATIONS)}; Redis: {SCHEMA}"


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


def test_the_readme_names_the_series_about_instances_and_no_others() -> None:
    [table] = re.findall(r"^## Metrics\n\n((?:\|.*\n)+)", README.read_text(), re.MULTILINE)
    named = set(re.findall(r"`\w+`", table))

    assert named == {name for name, _, _ in families() if not name.startswith("`spot_interruption_exporter")}


def test_every_exit_code_of_the_help_is_in_the_table() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    [table] = re.findall(r"^\| exit code .*\n((?:\|.*\n)+)", text, re.MULTILINE)
    listed = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    [codes] = re.findall(r"exit codes:\n((?:  .*\n)+)", run("--help").stdout)

    assert listed == re.findall(r"^  ([\d, ]*\d) ", codes, re.MULTILINE)


def test_every_alert_is_in_the_table_with_its_severity() -> None:
    rules = yaml.safe_load((ROOT / "k8s/monitoring/rules.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]

    assert [row[:2] for row in rows("alerts")] == [
        [f"[{alert['alert']}](runbook.md#{alert['alert'].lower()})", alert["labels"]["severity"]]
        for alert in alerts
    ]


def test_every_reason_of_a_failed_listing_is_in_the_table() -> None:
    listed = [reason for reasons, _ in rows("listing failures") for reason in re.findall(r"`(\w+)`", reasons)]

    assert sorted(listed) == sorted(FAILURES)


def test_every_reason_to_ignore_a_message_is_in_the_table_of_the_answers() -> None:
    sources = [path.read_text() for path in (ROOT / "app").rglob("*.py")]
    reasons = {reason for source in sources for reason in re.findall(r'\bIgnored\("(\w+)"\)', source)}
    [meaning] = [meaning for answer, meaning in rows("answers") if answer == "200 `ignored`"]

    assert reasons
    assert set(re.findall(r"`(\w+)`", meaning)) - {"reason"} == reasons
