#!/usr/bin/env bash
# grafana-foundation-sdk has a version epoch per build and one build per Grafana line, newest line first.
# The epochs rise in the order of building, so the highest version of all belongs to the oldest line,
# and "upgrade to the newest" leads from the types of Grafana 11.6 to those of 10.1.
# Seen: 1769699998!10.1.0 is newer than 1769699379!11.6.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet packaging==25.0
cd "$folder"
for version in '1769699998!10.1.0' '1769699379!11.6.0'; do
    venv/bin/pip download --quiet --no-deps --dest . "grafana-foundation-sdk==$version" # both exist
done
venv/bin/python - <<'PYTHON'
from packaging.version import Version

old_line, new_line = Version("1769699998!10.1.0"), Version("1769699379!11.6.0")
print(f"{old_line} > {new_line}: {old_line > new_line}")
assert old_line > new_line, "the behaviour has changed"
PYTHON
