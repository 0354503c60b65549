#!/usr/bin/env bash
# pydantic-settings 2.16.3 reads a YAML key in another case as a setting; 2.14.0 refuses it as an extra key.
# With both spellings in one file, one of them is dropped without a word. `case_sensitive` is false by default.
# Seen: 2.14.0 "extra_forbidden" twice; 2.16.3 "port=2" and "port=3".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cd "$folder"
cat > read.py <<'PYTHON'
import pathlib
import sys

import pydantic
from pydantic_settings import BaseSettings, YamlConfigSettingsSource


class Settings(BaseSettings):
    port: int = 1

    @classmethod
    def settings_customise_sources(cls, settings_cls, **sources):
        return (YamlConfigSettingsSource(settings_cls, "settings.yaml"),)


seen = []
for text in ("PORT: 2\n", "port: 3\nPORT: 2\n"):
    pathlib.Path("settings.yaml").write_text(text)
    try:
        seen.append(f"port={Settings().port}")
    except pydantic.ValidationError as exc:
        seen.append(exc.errors()[0]["type"])
print(seen)
assert " ".join(seen) == sys.argv[1], "the behaviour has changed"
PYTHON
for pair in "2.14.0=extra_forbidden extra_forbidden" "2.16.3=port=2 port=3"; do
    venv/bin/pip install --quiet pydantic==2.14.4 "pydantic-settings[yaml]==${pair%%=*}"
    printf '%s: ' "${pair%%=*}"
    venv/bin/python read.py "${pair#*=}"
done
