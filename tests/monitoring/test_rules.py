"""The recording and alerting rules: they are valid, tested, rendered, and described in the documentation."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from app import DOCS_URL
from app.metrics import Metrics
from app.web.problems import leaves, status_of
from tests.support.docs import PAGES, RUNBOOK, anchors, blocks, is_page_anchor, rows
from tests.support.go_programs import PROMTOOL, built
from tests.support.requirement import require
from tests.support.rules import RENDER, RULE_TESTS, RULES, RUNBOOK_ADDRESS, rule_groups, rule_tests

CLUSTER: Final = ("project", "kubernetes_cluster", "cluster_location")
"""The labels that identify a cluster: names are unique only within a project and a location."""
_ROOT: Final = Path(__file__).parent.parent.parent
_GROUPS: Final = rule_groups()
_RULES: Final = [rule for group in _GROUPS for rule in group["rules"]]
_ALERTS: Final = {rule["alert"]: rule for rule in _RULES if "alert" in rule}
_RECORDS: Final = [rule["record"] for rule in _RULES if "record" in rule]
_SCOPE: Final = {"project_id": "host", "location": "here", "cluster": "monitored", "namespace": "sie"}
"""The labels that Google's managed Prometheus adds to each selector, and to each result of a rule.

https://cloud.google.com/stackdriver/docs/managed-prometheus/rules-managed
"""
_SELECTOR: Final = re.compile(
    r"(?:\b(?:spot_|process_|\w+:)[\w:]+|\bup\b)(?P<matchers>\{)?(?(matchers).*?\})", re.DOTALL
)
_RUNBOOK: Final = RUNBOOK_ADDRESS
_BASE: Final = _RUNBOOK.removesuffix("docs/runbook.md")


@pytest.fixture(scope="module", params=["installed", "3"])
def promtool(request: pytest.FixtureRequest) -> Path:
    """The installed promtool, and that of Prometheus 3, whose ranges exclude their left edge."""
    if request.param == "installed":
        return Path(require("promtool", shutil.which("promtool")))
    return built(PROMTOOL)


def run(program: Path, *arguments: str | Path) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def render(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, RENDER, *arguments], capture_output=True, text=True, check=False)


def cases(kind: str) -> Iterator[dict[str, Any]]:
    """Yield all cases of a kind in promtool's files."""
    for path in RULE_TESTS:
        for test in rule_tests(path)["tests"]:
            yield from test.get(kind, ())


def test_the_rules_are_valid(promtool: Path) -> None:
    run(promtool, "check", "rules", RULES)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_promtool_s_tests(promtool: Path, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(json.dumps(rule_tests(path) | {"rule_files": [str(RULES)]}))  # JSON is YAML

    run(promtool, "test", "rules", copy)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_promtool_s_tests_when_a_collector_scopes_them(
    promtool: Path, path: Path, tmp_path: Path
) -> None:
    rules = yaml.safe_load(RULES.read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["expr"] = _SELECTOR.sub(_scoped, rule["expr"])
        rule["labels"] = rule.get("labels", {}) | _SCOPE
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    tests = rule_tests(path)
    tests["rule_files"] = ["rules.yaml"]
    for test in tests["tests"]:
        # The files share series by YAML anchors, so the series are replaced and not changed.
        test["input_series"] = [
            one | {"series": _SELECTOR.sub(_scoped, one["series"])} for one in test["input_series"]
        ]
        test["promql_expr_test"] = [
            case
            | {"exp_samples": [one | {"labels": _with_scope(one["labels"])} for one in case["exp_samples"]]}
            for case in test.get("promql_expr_test", ())
        ]
        test["alert_rule_test"] = [
            case
            | {"exp_alerts": [one | {"exp_labels": one["exp_labels"] | _SCOPE} for one in case["exp_alerts"]]}
            for case in test.get("alert_rule_test", ())
        ]
    copy = tmp_path / path.name
    copy.write_text(json.dumps(tests))

    run(promtool, "test", "rules", copy)


def _scoped(selector: re.Match[str]) -> str:
    return _with_scope(selector[0] if selector["matchers"] else f"{selector[0]}{{}}")


def _with_scope(labels: str) -> str:
    """Add the labels of the scope to the labels or matchers in braces, except those that are there."""
    added = ", ".join(
        f'{name}="{value}"' for name, value in _SCOPE.items() if not re.search(rf"\b{name}=", labels)
    )
    head, _, rest = labels.partition("{")
    return f"{head}{{{added}{', ' if rest.strip() != '}' else ''}{rest}"


def test_every_alert_is_tested_firing_and_not_firing() -> None:
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


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_promtool_evaluates_each_group_after_those_that_it_reads(path: Path) -> None:
    # Without this order, promtool evaluates the groups in a random order.
    assert rule_tests(path)["group_eval_order"] == [group["name"] for group in _GROUPS]
    recorded: set[str] = set()
    for group in _GROUPS:
        recorded |= {rule["record"] for rule in group["rules"] if "record" in rule}
        for rule in group["rules"]:
            assert set(re.findall(r"\b\w+:\w+:\w+", rule["expr"])) <= recorded, rule


def test_every_series_of_a_test_is_read_by_a_rule() -> None:
    read = {name for rule in _RULES for name in re.findall(r"\b(?:spot|process)_\w+|\bup\b", rule["expr"])}
    given = {
        series["series"].partition("{")[0]
        for path in RULE_TESTS
        for test in rule_tests(path)["tests"]
        for series in test["input_series"]
    }

    assert given <= read, given - read


def test_no_counter_is_compared_with_its_past_and_no_gauge_averaged() -> None:
    assert not [rule["expr"] for rule in _RULES if re.search(r"\boffset\b|\bavg_over_time\b", rule["expr"])]


def test_slow_records_are_read_by_last_over_time() -> None:
    slow = {
        rule["record"]
        for group in _GROUPS
        for rule in group["rules"]
        if "record" in rule and _minutes(group) >= 5
    }
    assert slow
    for group in _GROUPS:
        for rule in group["rules"]:
            for name in set(re.findall(r"\w+:\w+:\w+", rule["expr"])) & slow:
                reads = re.findall(rf"(\w+\()?{name}(\[1h\])?", rule["expr"])
                assert set(reads) == {("last_over_time(", "[1h]")}, rule
    # The window of one hour always has two samples.
    assert max(map(_minutes, _GROUPS)) == 30


def _minutes(group: dict[str, Any]) -> int:
    return int(group["interval"].removesuffix("m"))


def unknown_series(texts: Iterable[str]) -> set[str]:
    """Return the series that the texts read, and that are neither exported nor recorded."""
    exposition = Metrics().render("")[0].decode()
    exported = set(re.findall(r"^# TYPE (\w+)", exposition, re.MULTILINE)) | {"up"}
    histograms = set(re.findall(r"^# TYPE (\w+) histogram", exposition, re.MULTILINE))
    exported |= {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    read = {
        name
        for text in texts
        for name in re.findall(r"\b(?:spot_|process_|[a-z]\w+:)[\w:]+|\bup\b", text)
        if not name.endswith(":")
    }
    assert len(read) > 10
    return read - exported - set(_RECORDS)


def test_every_series_that_a_rule_reads_is_exported_or_recorded() -> None:
    texts = [
        text for rule in _RULES for text in (rule["expr"], rule.get("annotations", {}).get("summary", ""))
    ]

    assert unknown_series(texts) == set()


def queries_of_the_pages() -> list[str]:
    """Return each query once. A line that is not indented begins a query."""
    codes = [block.code.strip() for page in PAGES for block in blocks(page, "promql")]
    return list(dict.fromkeys(query for code in codes for query in re.split(r"\n(?=[^\s)])", code)))


def test_every_series_that_a_query_of_the_pages_reads_is_exported_or_recorded() -> None:
    # Without the values of labels: `spot-pool` is not a series.
    assert unknown_series(re.sub(r'"[^"]*"', '""', query) for query in queries_of_the_pages()) == set()


def test_every_query_of_the_pages_is_valid(promtool: Path, tmp_path: Path) -> None:
    queries = [
        {"record": f"query:{number}", "expr": query} for number, query in enumerate(queries_of_the_pages())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "pages", "rules": queries}]}))  # JSON is YAML

    assert len(queries) > 20
    run(promtool, "check", "rules", file)


@pytest.mark.parametrize(
    ("alert", "operator", "statuses"),
    [
        ("SpotInterruptionExporterPushesUnauthenticated", "=~", {401, 403}),
        ("SpotInterruptionExporterPushesRefused", "=~", {400, 408, 413, 422}),
        ("SpotInterruptionExporterPushesFailing", "!~", {500, 503}),
    ],
)
def test_every_reason_belongs_to_the_alert_of_its_status_and_is_in_its_section_of_the_runbook(
    alert: str, operator: str, statuses: set[int]
) -> None:
    found = re.search(rf'reason{operator}"(.+)"', _ALERTS[alert]["expr"])
    assert found is not None
    matched = {
        leaf.reason for leaf in leaves() if bool(re.fullmatch(found[1], leaf.reason)) is (operator == "=~")
    }

    expected = {leaf.reason for leaf in leaves() if status_of(leaf) in set(map(HTTPStatus, statuses))}
    assert matched == expected - {"stopping"}
    [section] = re.findall(rf"^## {alert}\n(.*?)^## ", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert [reason for reason in sorted(matched) if f"`{reason}`" not in section] == []


@pytest.mark.parametrize("alert", _ALERTS)
def test_an_alert_has_a_severity_a_description_and_a_runbook(alert: str) -> None:
    rule = _ALERTS[alert]

    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["for"]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    if re.match(r"cluster:|\(?\s*node_pool:", rule["expr"]):
        for label in CLUSTER:
            assert f"{{{{ $labels.{label} }}}}" in rule["annotations"]["summary"]
    if re.match(r"\(?\s*zone:", rule["expr"]):
        for label in CLUSTER:
            assert f".Labels.{label} }}}}" in rule["annotations"]["summary"]


@pytest.mark.parametrize("alert", _ALERTS)
def test_an_alert_links_to_its_section_of_the_runbook(alert: str) -> None:
    page, _, anchor = _ALERTS[alert]["annotations"]["runbook_url"].partition("#")

    assert page == _RUNBOOK
    assert anchor == alert.lower()
    assert f"## {alert}\n" in RUNBOOK.read_text()


def test_the_runbook_has_an_https_address_that_ends_with_its_path() -> None:
    assert urlsplit(_RUNBOOK).scheme == "https"
    assert urlsplit(_RUNBOOK).hostname
    assert f"{_BASE}{RUNBOOK.relative_to(_ROOT)}" == _RUNBOOK


def test_the_exporters_page_links_to_the_same_page() -> None:
    assert f"{DOCS_URL}/runbook.md" == _RUNBOOK


def test_terraform_s_alert_links_to_an_anchor_of_a_page() -> None:
    infra = _ROOT / "infra" / "gcp"

    [page] = re.findall(r'default     = "(https://[^"]+\.md)"', (infra / "variables.tf").read_text())
    [anchor] = re.findall(r"\]\(\$\{var\.runbook\}#([\w-]+)\)", (infra / "alert.tf").read_text())
    assert is_page_anchor(f"{page}#{anchor}", _BASE)
    assert anchor == "dead-letters"
    assert anchor in anchors(RUNBOOK)


def groupings(promql: str) -> Iterator[set[str]]:
    """Yield the labels of each aggregation."""
    for labels in re.findall(r"\bby\s*\(([^)]*)\)", promql):
        yield set(re.findall(r"\w+", labels))


def test_every_rule_separates_clusters_of_the_same_name() -> None:
    texts = [
        text for rule in _RULES for text in (rule["expr"], rule.get("annotations", {}).get("summary", ""))
    ]

    found = [labels for text in texts for labels in groupings(text) if "kubernetes_cluster" in labels]
    assert len(found) > 20
    assert [labels for labels in found if not labels >= set(CLUSTER)] == []


def test_every_query_of_the_pages_separates_clusters_of_the_same_name() -> None:
    queries = [block.code for page in PAGES for block in blocks(page, "promql")]

    found = [labels for query in queries for labels in groupings(query) if "kubernetes_cluster" in labels]
    assert len(found) > 5
    assert [labels for labels in found if not labels >= set(CLUSTER)] == []


def test_a_page_has_a_table_of_all_records() -> None:
    names = [
        f"{level}:{name}"
        for levels, operations, _ in rows("records")
        for level in re.findall(r"`(\w+)`", levels)
        for name in re.findall(r"`(\w+:\w+)`", operations)
    ]

    assert sorted(names) == sorted(_RECORDS)


def test_the_rendered_files_are_not_stale() -> None:
    checked = render("--check")

    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("path", "kind", "api_version"),
    [
        ("prometheus-operator/prometheusrule.yaml", "PrometheusRule", "monitoring.coreos.com/v1"),
        ("managed-prometheus/rules.yaml", "Rules", "monitoring.googleapis.com/v1"),
    ],
)
def test_a_rendered_file_has_the_same_groups(path: str, kind: str, api_version: str) -> None:
    resource = yaml.safe_load((_ROOT / "k8s/components" / path).read_text())

    assert (resource["kind"], resource["apiVersion"]) == (kind, api_version)
    assert resource["spec"]["groups"] == _GROUPS


def test_the_rules_have_only_fields_and_labels_that_managed_prometheus_allows() -> None:
    scope = {"project_id", "location", "cluster", "namespace"}
    for group in _GROUPS:
        assert group.keys() == {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert rule.keys() <= {"record", "alert", "expr", "for", "labels", "annotations"}
            assert not scope & rule.get("labels", {}).keys()
            assert not re.search(rf"\b({'|'.join(scope)})\s*[=!]", rule["expr"])


def test_another_cluster_label_and_runbook_are_rendered_into_every_file(tmp_path: Path) -> None:
    page = "https://wiki.example.com/spot"
    options = ("--cluster-label", "target_cluster", "--runbook", page, "--output", tmp_path)
    assert render(*options).returncode == 0
    assert render(*options, "--check").returncode == 0

    written = [path.read_text() for path in tmp_path.rglob("*.*")]
    assert len(written) == 4
    for text in written:
        assert "target_cluster" in text
        assert "kubernetes_cluster" not in text
        assert f"{page}#" in text
        assert _RUNBOOK not in text
    assert yaml.safe_load((tmp_path / "monitoring/rules.yaml").read_text())["groups"]
    json.loads((tmp_path / "monitoring/dashboard.json").read_text())


def test_a_stale_file_is_reported(tmp_path: Path) -> None:
    assert render("--output", tmp_path).returncode == 0
    stale = tmp_path / "monitoring/rules.yaml"
    stale.write_text(stale.read_text() + "# changed\n")

    checked = render("--output", tmp_path, "--check")
    assert checked.returncode == 1
    assert checked.stdout == f"{stale} is stale\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cluster-label", "no-label"),
        ("--cluster-label", "__reserved"),
        ("--cluster-label", "kubernetes_cluster }"),
        ("--runbook", "README.md"),
        ("--runbook", "https://wiki.example.com/spot#runbook"),
        ("--runbook", "https://wiki.example.com/{{ $value }}"),
        ("--runbook", 'https://wiki.example.com/"'),
        ("--runbook", "javascript:alert(1)"),
    ],
)
def test_an_invalid_option_is_refused(option: str, value: str, tmp_path: Path) -> None:
    assert render(option, value, "--output", tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())


def test_the_rules_for_victoriametrics_differ_only_in_the_function_of_increases(tmp_path: Path) -> None:
    assert render("--output", tmp_path / "prometheus").returncode == 0
    assert render("--victoriametrics", "--output", tmp_path / "victoria").returncode == 0

    written = {path.name for path in (tmp_path / "victoria").rglob("*.*")}
    assert written == {"rules.yaml", "dashboard.json", "vmrule.yaml"}
    for name in ("monitoring/rules.yaml", "monitoring/dashboard.json"):
        text = (tmp_path / "victoria" / name).read_text()
        assert "increase(" not in text
        assert (
            text.replace("increase_prometheus(", "increase(") == (tmp_path / "prometheus" / name).read_text()
        )
    rule = yaml.safe_load((tmp_path / "victoria/monitoring/vmrule.yaml").read_text())
    plain = yaml.safe_load((tmp_path / "victoria/monitoring/rules.yaml").read_text())
    assert (rule["kind"], rule["spec"]) == ("VMRule", plain)


@pytest.mark.parametrize(
    "options",
    [
        ("--cluster-label", "other"),
        ("--runbook", "https://wiki.example.com/spot"),
        ("--victoriametrics",),
    ],
)
def test_the_files_of_the_repository_keep_the_defaults(options: tuple[str, ...]) -> None:
    refused = render(*options)

    assert refused.returncode == 2
    assert "need an --output" in refused.stderr
