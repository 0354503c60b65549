"""The recording and alerting rules: valid, tested each of them both ways, rendered, and explained."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from app.metrics import Metrics
from app.web.problems import leaves, status_of
from tests.support.requirement import require
from tests.test_readme import rows

_ROOT: Final = Path(__file__).parent.parent.parent
_SOURCE: Final = _ROOT / "k8s/monitoring/rules.yaml"
_PROMTOOL_TESTS: Final = sorted((Path(__file__).parent / "promtool").glob("*.yaml"))
_GROUPS: Final[list[dict[str, Any]]] = yaml.safe_load(_SOURCE.read_text())["groups"]
_RULES: Final = [rule for group in _GROUPS for rule in group["rules"]]
_ALERTS: Final = {rule["alert"]: rule for rule in _RULES if "alert" in rule}
_RECORDS: Final = [rule["record"] for rule in _RULES if "record" in rule]


def promtool(*arguments: str | Path) -> None:
    program = require("promtool", shutil.which("promtool"))
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def render(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    script = _SOURCE.parent / "render.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def cases(kind: str) -> Iterator[dict[str, Any]]:
    """Every case of that kind in promtool's files."""
    for path in _PROMTOOL_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            yield from test.get(kind, ())


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", _SOURCE)


@pytest.mark.parametrize("path", _PROMTOOL_TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_promtool_s_files_say(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_is_tested_both_ways() -> None:
    tested = {(case["alertname"], bool(case["exp_alerts"])) for case in cases("alert_rule_test")}

    assert tested == {(alert, fires) for alert in _ALERTS for fires in (True, False)}


def test_every_record_is_tested() -> None:
    tested = {
        name
        for case in cases("promql_expr_test")
        if case["exp_samples"]
        for name in re.findall(r"\w+:\w+:\w+", case["expr"])
    }

    assert tested == set(_RECORDS)


def test_no_counter_is_compared_with_its_past_and_no_gauge_averaged() -> None:
    assert not [rule["expr"] for rule in _RULES if re.search(r"\boffset\b|\bavg_over_time\b", rule["expr"])]


def test_what_is_recorded_less_often_than_prometheus_looks_back_is_read_by_last_over_time() -> None:
    slow = {
        rule["record"]: group["name"] for group in _GROUPS for rule in group["rules"] if _minutes(group) >= 5
    }
    assert slow
    for group in _GROUPS:
        for rule in group["rules"]:
            for name in set(re.findall(r"\w+:\w+:\w+", rule["expr"])) & slow.keys() - _same(slow, group):
                reads = re.findall(rf"(\w+\()?{name}(\[1h\])?", rule["expr"])
                assert set(reads) == {("last_over_time(", "[1h]")}, rule
    # Two of them are seen at any time.
    assert max(map(_minutes, _GROUPS)) == 30


def _minutes(group: dict[str, Any]) -> int:
    return int(group["interval"].removesuffix("m"))


def _same(slow: dict[str, str], group: dict[str, Any]) -> set[str]:
    """What the group itself records: its rules are evaluated one after the other, for the same moment."""
    return {record for record, name in slow.items() if name == group["name"]}


def test_every_series_that_a_rule_reads_is_exported_or_recorded() -> None:
    exposition = Metrics().render("")[0].decode()
    exported = set(re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE)) | {"up"}
    histograms = set(re.findall(r"^# TYPE (\w+) histogram", exposition, re.MULTILINE))
    exported |= {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    read = {
        name
        for rule in _RULES
        for text in (rule["expr"], rule.get("annotations", {}).get("summary", ""))
        for name in re.findall(r"\b(?:spot_|process_|\w+:)[\w:]+|\bup\b", text)
        if not name.endswith(":")
    }

    assert read <= exported | set(_RECORDS), read - exported - set(_RECORDS)


@pytest.mark.parametrize(
    ("alert", "operator", "statuses"),
    [
        ("SpotInterruptionExporterPushesUnauthenticated", "=~", {401, 403}),
        ("SpotInterruptionExporterPushesRefused", "=~", {400, 408, 413, 422}),
        ("SpotInterruptionExporterPushesFailing", "!~", {500, 503}),
    ],
)
def test_every_reason_belongs_to_the_alert_of_its_status(
    alert: str, operator: str, statuses: set[int]
) -> None:
    found = re.search(rf'reason{operator}"(.+)"', _ALERTS[alert]["expr"])
    assert found is not None
    matched = {
        leaf.reason for leaf in leaves() if bool(re.fullmatch(found[1], leaf.reason)) is (operator == "=~")
    }

    expected = {leaf.reason for leaf in leaves() if status_of(leaf) in set(map(HTTPStatus, statuses))}
    assert matched == expected - {"stopping"}


@pytest.mark.parametrize("alert", _ALERTS)
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert: str) -> None:
    rule = _ALERTS[alert]

    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["for"]
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"README.md#{alert.lower()}"
    if re.match(r"cluster:|\(?\s*node_pool:", rule["expr"]):
        assert "{{ $labels.kubernetes_cluster }}" in rule["annotations"]["summary"]
    if re.match(r"\(?\s*zone:", rule["expr"]):
        assert ".Labels.kubernetes_cluster }}" in rule["annotations"]["summary"]


@pytest.mark.parametrize("alert", _ALERTS)
def test_the_readme_has_a_section_for_the_alert(alert: str) -> None:
    assert f"#### {alert}\n" in (_ROOT / "README.md").read_text()


def test_the_readme_has_a_table_of_all_records() -> None:
    names = [
        f"{level}:{name}"
        for levels, operations, _ in rows("records")
        for level in re.findall(r"`(\w+)`", levels)
        for name in re.findall(r"`(\w+:\w+)`", operations)
    ]

    assert sorted(names) == sorted(_RECORDS)


def test_the_written_forms_are_not_stale() -> None:
    checked = render("--check")

    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("path", "kind", "api_version"),
    [
        ("prometheus-operator/prometheusrule.yaml", "PrometheusRule", "monitoring.coreos.com/v1"),
        ("managed-prometheus/rules.yaml", "Rules", "monitoring.googleapis.com/v1"),
    ],
)
def test_a_written_form_has_the_same_groups(path: str, kind: str, api_version: str) -> None:
    resource = yaml.safe_load((_ROOT / "k8s/components" / path).read_text())

    assert (resource["kind"], resource["apiVersion"]) == (kind, api_version)
    assert resource["spec"]["groups"] == _GROUPS


def test_google_s_rules_take_these_fields_and_set_these_labels_themselves() -> None:
    scope = {"project_id", "location", "cluster", "namespace"}
    for group in _GROUPS:
        assert group.keys() == {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert rule.keys() <= {"record", "alert", "expr", "for", "labels", "annotations"}
            assert not scope & rule.get("labels", {}).keys()
            assert not re.search(rf"\b({'|'.join(scope)})\s*[=!]", rule["expr"])


def test_another_cluster_label_is_rendered_into_every_form(tmp_path: Path) -> None:
    assert render("--cluster-label", "target_cluster", "--output", tmp_path).returncode == 0
    assert render("--cluster-label", "target_cluster", "--output", tmp_path, "--check").returncode == 0

    written = [path.read_text() for path in tmp_path.rglob("*.yaml")]
    assert len(written) == 3
    for text in written:
        assert "target_cluster" in text
        assert "kubernetes_cluster" not in text
    promtool("check", "rules", tmp_path / "monitoring/rules.yaml")


def test_a_stale_form_is_told(tmp_path: Path) -> None:
    assert render("--output", tmp_path).returncode == 0
    stale = tmp_path / "monitoring/rules.yaml"
    stale.write_text(stale.read_text() + "# changed\n")

    checked = render("--output", tmp_path, "--check")
    assert checked.returncode == 1
    assert checked.stdout == f"{stale} is stale\n"


@pytest.mark.parametrize("label", ["no-label", "__reserved", "kubernetes_cluster }"])
def test_what_is_no_label_name_is_refused(label: str, tmp_path: Path) -> None:
    assert render("--cluster-label", label, "--output", tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())
