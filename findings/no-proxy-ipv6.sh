#!/usr/bin/env bash
# httpx 0.28.1 raises InvalidURL for an IPv6 network in NO_PROXY, when a client is made and before any request.
# An IPv4 network is accepted. Container runtimes and cluster operators set both kinds.
# Seen: "10.0.0.0/8: accepted", "fd00::/8: InvalidURL: Invalid port: ':'".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet httpx==0.28.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import os

import httpx

seen = []
for network in ("10.0.0.0/8", "fd00::/8"):
    os.environ["NO_PROXY"] = network
    try:
        httpx.Client().close()
        seen.append("accepted")
    except httpx.InvalidURL as exc:
        seen.append(f"InvalidURL: {exc}")
    print(f"{network}: {seen[-1]}")
assert seen == ["accepted", "InvalidURL: Invalid port: ':'"], "the behaviour has changed"
PYTHON
