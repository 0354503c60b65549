"""The recording and alerting rules of the project."""

from pathlib import Path
from typing import Any, Final

import yaml

RULES: Final = Path(__file__).parents[2] / "k8s" / "monitoring" / "rules.yaml"


def rule_groups() -> list[dict[str, Any]]:
    """Return the groups of rules, as the file has them."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return groups
