#!/usr/bin/env bash
# promql-parser 0.11.0: str() of a parsed query is another query.
# A subquery without a resolution becomes a range: jobs[1h:] is evaluated at each step, and jobs[1h] is the stored
# samples. Both are valid. In a label's value a backslash is not escaped: the text is another value, or the parser
# refuses it. The method prettify() writes the query that was read.
# A backslash between backticks, where PromQL has no escapes, is refused.
# https://prometheus.io/docs/prometheus/latest/querying/basics/#string-literals
# Seen: "max_over_time(jobs{}[1h])" for "max_over_time(jobs[1h:])".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet promql-parser==0.11.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from promql_parser import parse


def read(query):
    try:
        return parse(query)
    except ValueError as exc:
        print(f"  refused: {exc}")


seen = {}
for query in ("max_over_time(jobs[1h:])", r'jobs{host=~"shop\\.example"}', r'jobs{path="C:\\temp"}'):
    parsed = parse(query)
    print(f"{query}\n  str: {parsed}\n  prettify: {parsed.prettify()}")
    assert parsed.prettify() == query, "the behaviour has changed"
    again = read(str(parsed))
    seen[query] = again and again.prettify()
assert list(seen.values()) == ["max_over_time(jobs[1h])", None, r'jobs{path="C:\temp"}'], (
    "the behaviour has changed"
)
print(r"jobs{host=~`shop\.example`}")
assert read(r"jobs{host=~`shop\.example`}") is None, "the behaviour has changed"
PYTHON
