#!/usr/bin/env bash
# parse-prometheus-text-format 1.1.1 (Node.js) merges the label sets of a histogram into one without labels.
# It returns the buckets of the last label set, without labels, sum and count. Nothing is raised. A histogram without
# labels, as in the package's example, has all of these, and a counter keeps its labels.
# Seen: for the zones a and b one metric, {"buckets":{"1":"10","+Inf":"20"}}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --no-audit --no-fund --prefix "$folder" parse-prometheus-text-format@1.1.1
cd "$folder"
cat > read.js <<'JAVASCRIPT'
const assert = require("node:assert");
const parse = require("parse-prometheus-text-format");

function histogram(labels, values) {
  const [first, all, sum] = values;
  const own = labels && `{${labels}}`;
  const buckets = labels && `${labels},`;
  return `age_bucket{${buckets}le="1"} ${first}
age_bucket{${buckets}le="+Inf"} ${all}
age_sum${own} ${sum}
age_count${own} ${all}
`;
}

const type = "# TYPE age histogram\n";
const plain = parse(type + histogram("", [1, 2, 3]));
const labelled = parse(type + histogram('zone="a"', [1, 2, 3]) + histogram('zone="b"', [10, 20, 30]));
const counter = parse('# TYPE jobs counter\njobs{zone="a"} 1\njobs{zone="b"} 10\n');
for (const [family] of [plain, labelled, counter]) console.log(JSON.stringify(family));
assert.deepStrictEqual(plain[0].metrics, [{ buckets: { 1: "1", "+Inf": "2" }, count: "2", sum: "3" }]);
assert.deepStrictEqual(labelled[0].metrics, [{ buckets: { 1: "10", "+Inf": "20" } }]);
assert.deepStrictEqual(
  counter[0].metrics.map((metric) => metric.labels),
  [{ zone: "a" }, { zone: "b" }],
);
JAVASCRIPT
node read.js
