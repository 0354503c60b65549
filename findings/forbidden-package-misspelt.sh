#!/usr/bin/env bash
# import-linter 2.17 names an internal module of a contract that does not exist, and exits with 1.
# It accepts an external package that does not exist: the contract is kept, although it forbids nothing.
# Seen: "Module 'house.lwo' does not exist." for the first, "KEPT" for the second.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet import-linter==2.17
cd "$folder"
mkdir house
touch house/__init__.py
echo 'import json' > house/low.py
lint() { # source module, forbidden package
    printf '[importlinter]\nroot_package = house\ninclude_external_packages = True\n' > .importlinter
    printf '[importlinter:contract:1]\nname = No JSON\ntype = forbidden\n' >> .importlinter
    printf 'source_modules = %s\nforbidden_modules = %s\n' "$1" "$2" >> .importlinter
    venv/bin/lint-imports --no-cache 2>&1 | grep -oE "does not exist|No JSON (KEPT|BROKEN)"
}
seen="$(lint house.low json), $(lint house.lwo json), $(lint house.low jsno)"
echo "right names, module misspelt, package misspelt: $seen"
[ "$seen" = "No JSON BROKEN, does not exist, No JSON KEPT" ]
