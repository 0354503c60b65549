"""Datadog's OpenMetrics check: `python datadog_check.py INSTANCE`, by an interpreter that has it installed.

The instance is in JSON. For each line of its input it runs the check once, and writes a line with the samples
that the Agent would get: name, tags, type, value, and whether the first value of a new series counts.
"""

import json
import sys
from importlib import import_module


def main() -> None:
    """Run the check until the input ends."""
    check_class = import_module("datadog_checks.base").OpenMetricsBaseCheckV2
    aggregator = import_module("datadog_checks.base.stubs").aggregator
    check = check_class("openmetrics", {}, [json.loads(sys.argv[1])])
    for _ in sys.stdin:
        aggregator.reset()
        problem = check.run()
        samples = [
            [one.name, one.tags, one.type, one.value, one.flush_first_value]
            for name in aggregator.metric_names
            for one in aggregator.metrics(name)
        ]
        sys.stdout.write(json.dumps({"problem": problem, "samples": samples}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
