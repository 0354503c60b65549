"""The rules for VictoriaMetrics pass promtool's tests under vmalert-tool.

https://docs.victoriametrics.com/victoriametrics/vmalert-tool/
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.go_programs import VMALERT_TOOL, built
from tests.support.rules import RENDER, RULE_TESTS, rule_groups, rule_tests

_GROUP_OF: Final = {
    rule["alert"]: group["name"] for group in rule_groups() for rule in group["rules"] if "alert" in rule
}
_START: Final = 946_684_800
"""The tests of vmalert-tool begin at this Unix time, and those of promtool at 0."""
_DIFFERENT: Final = {
    # Prometheus adds the 990 of a counter that falls from 1000 to 990.
    "a counter that returns slightly lower adds its whole value": 0,
}
"""The values that VictoriaMetrics has in a test with one case, where they differ from those of Prometheus."""


_INTERVALS: Final = {"6h": "30m"}
"""The intervals at which vmalert-tool does not find a record of another group, and those at which it does."""


@pytest.fixture(scope="module")
def vmalert_tool() -> Path:
    return built(VMALERT_TOOL)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("victoriametrics")
    subprocess.run([sys.executable, RENDER, "--victoriametrics", "--output", folder], check=True)
    return folder / "monitoring/rules.yaml"


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_for_victoriametrics_pass_the_same_tests(
    vmalert_tool: Path, rules: Path, path: Path, tmp_path: Path
) -> None:
    file = rule_tests(path)
    changed = {
        "rule_files": [str(rules)],
        "tests": [_converted(test) for test in file["tests"]],
        "evaluation_interval": _INTERVALS.get(file["evaluation_interval"], file["evaluation_interval"]),
    }
    copy = tmp_path / path.name
    copy.write_text(json.dumps(file | changed))  # JSON is YAML

    command: list[str | Path] = [vmalert_tool, "unittest", "--files", copy]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_a_rule_that_differs_has_a_test_of_one_case() -> None:
    cases = {
        test["name"]: len(test["promql_expr_test"])
        for path in RULE_TESTS
        for test in rule_tests(path)["tests"]
        if test["name"] in _DIFFERENT
    }

    assert cases == dict.fromkeys(_DIFFERENT, 1)


def _converted(test: dict[str, Any]) -> dict[str, Any]:
    """Return the test with the field names of vmalert-tool."""
    return {
        "name": test["name"],
        "interval": test["interval"],
        "input_series": [_since_the_start(one) for one in test["input_series"]],
        "metricsql_expr_test": [
            case
            # Some functions of MetricsQL keep the name of a metric that PromQL drops.
            | {"expr": f'label_del(({case["expr"]}), "__name__")'}
            | {"exp_samples": [_nameless(test["name"], one) for one in case["exp_samples"]]}
            for case in test.get("promql_expr_test", ())
        ],
        "alert_rule_test": [
            case
            | {"groupname": (group := _GROUP_OF[case["alertname"]])}
            | {
                "exp_alerts": [
                    alert | {"exp_labels": alert["exp_labels"] | {"alertgroup": group}}
                    for alert in case["exp_alerts"]
                ]
            }
            for case in test.get("alert_rule_test", ())
        ],
    }


def _since_the_start(series: dict[str, str]) -> dict[str, str]:
    if not re.search(r"timestamp_seconds|start_time_seconds", series["series"]):
        return series
    return series | {"values": re.sub(r"(?<!\S)\d+", lambda at: str(int(at[0]) + _START), series["values"])}


def _nameless(name: str, sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "labels": re.sub(r"^[^{]+", "", sample["labels"]),
        "value": _DIFFERENT.get(name, sample["value"]),
    }
