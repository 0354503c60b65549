"""The recording and alerting rules of the project, and the files that test them in promtool's format.

https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/
"""

import re
import runpy
from pathlib import Path
from typing import Any, Final

import yaml

_ROOT: Final = Path(__file__).parents[2]
RULES: Final = _ROOT / "k8s" / "monitoring" / "rules.yaml"
RENDER: Final = RULES.parent / "render.py"
RULE_TESTS: Final = sorted((_ROOT / "tests" / "monitoring" / "promtool").glob("*.yaml"))
RUNBOOK_ADDRESS: Final[str] = runpy.run_path(str(RENDER))["RUNBOOK"]


def rule_groups() -> list[dict[str, Any]]:
    """Return the groups of rules, as the file has them."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return groups


def rule_tests(path: Path) -> dict[str, Any]:
    """Return a file of promtool's tests. It expects the runbook's address of this copy of the project."""
    text = re.sub(r"(runbook_url: )[^#]+", rf"\1{RUNBOOK_ADDRESS}", path.read_text())
    # YAML 1.1 reads `0x30`, thirty times 0, as a number.
    file: dict[str, Any] = yaml.safe_load(re.sub(r"(values: )(0x\d+)$", r'\1"\2"', text, flags=re.MULTILINE))
    return file
