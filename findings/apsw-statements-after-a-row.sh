#!/usr/bin/env bash
# apsw 3.54.1.0: of several statements in one `execute`, those after the first that returns a row are not run
# until somebody asks for the rows. `Connection.execute` returns a cursor, and a script that ignores it stops
# there without an error. A PRAGMA that answers is enough.
# Seen: "0 tables after a PRAGMA that answers, 2 without one, 1 after reading the rows".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apsw==3.54.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import apsw


def tables(script, read=False):
    connection = apsw.Connection(":memory:")
    cursor = connection.execute(script)
    if read:
        cursor.fetchall()
    return connection.execute("SELECT count(*) FROM sqlite_schema").get


seen = (
    tables("PRAGMA user_version; CREATE TABLE a (x)"),
    tables("CREATE TABLE a (x); CREATE TABLE b (x)"),
    tables("PRAGMA user_version; CREATE TABLE a (x)", read=True),
)
print(f"apsw {apsw.apsw_version()}: {seen[0]} tables after a PRAGMA that answers,"
      f" {seen[1]} without one, {seen[2]} after reading the rows")
assert seen == (0, 2, 1), "the behaviour has changed"
PYTHON
