#!/usr/bin/env bash
# httptools 0.9.0 strips the whitespace before the value of a header, and keeps the whitespace after it.
# RFC 9112, section 5: neither is a part of the value. h11 0.16.0 strips both.
# uvicorn passes the values on: whether an application sees b"gzip" depends on the parser that is installed.
# Seen: "httptools: b'gzip \t', h11: b'gzip'".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet httptools==0.9.0 h11==0.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import h11
import httptools

REQUEST = b"GET / HTTP/1.1\r\nHost: exporter\r\nAccept-Encoding: \t gzip \t\r\n\r\n"


class Headers(dict):
    def on_header(self, name, value):
        self[name.lower()] = value


headers = Headers()
httptools.HttpRequestParser(headers).feed_data(REQUEST)
connection = h11.Connection(h11.SERVER)
connection.receive_data(REQUEST)
values = headers[b"accept-encoding"], dict(connection.next_event().headers)[b"accept-encoding"]
print(f"httptools: {values[0]!r}, h11: {values[1]!r}")
assert values == (b"gzip \t", b"gzip"), "the behaviour has changed"
PYTHON
