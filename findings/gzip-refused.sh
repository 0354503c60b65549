#!/usr/bin/env bash
# starlette 1.10.0: GZipMiddleware compresses an answer although the client refuses gzip with q=0.
# RFC 9110, section 12.5.3: a coding with a weight of 0 is not acceptable. The middleware looks for the word "gzip".
# Seen: "content-encoding: gzip" for "Accept-Encoding: identity, gzip;q=0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet starlette==1.10.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import asyncio

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse


async def coding(accept: str) -> str | None:
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", accept.encode())]}
    await GZipMiddleware(PlainTextResponse("x" * 1000))(scope, None, send)
    return dict(sent[0]["headers"]).get(b"content-encoding", b"none").decode()


for accept in ("gzip", "identity", "identity, gzip;q=0"):
    seen = asyncio.run(coding(accept))
    print(f"{accept}: {seen}")
assert seen == "gzip", "the behaviour has changed"
PYTHON
