#!/usr/bin/env bash
# apsw 3.54.1.0: `Connection.close(True)` is documented to ignore exceptions. An exception of a VFS that is
# written in Python is raised all the same, so cleaning up after an error of the disk needs its own `try`.
# Seen: "close(True) raised IOError: the disk is gone".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet apsw==3.54.1.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import apsw


class File(apsw.VFSFile):
    def xClose(self):
        super().xClose()
        if vfs.is_broken:
            raise apsw.IOError("the disk is gone")


class FileSystem(apsw.VFS):
    is_broken = False

    def __init__(self):
        super().__init__("example", base="")

    def xOpen(self, name, flags):
        return File("", name, flags)


vfs = FileSystem()
connection = apsw.Connection("example.db", vfs="example")
connection.execute("CREATE TABLE a (x)")
vfs.is_broken = True
try:
    connection.close(True)
except apsw.IOError as exc:
    seen = f"raised IOError: {exc}"
else:
    seen = "raised nothing"
print(f"apsw {apsw.apsw_version()}: close(True) {seen}")
assert seen == "raised IOError: the disk is gone", "the behaviour has changed"
PYTHON
