#!/usr/bin/env bash
# google-auth 2.63.0: if GOOGLE_APPLICATION_CREDENTIALS names a folder, as a Secret that is mounted without its file
# does, `default()` raises IsADirectoryError, which is not a GoogleAuthError. A path at which nothing is raises the
# documented DefaultCredentialsError.
# Seen: "a missing file: DefaultCredentialsError; a folder: IsADirectoryError".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-auth==2.63.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys
from importlib.metadata import version

import google.auth


def error_with(path):
    os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = path
    try:
        google.auth.default()
    except Exception as exc:
        return type(exc).__name__
    return "no error"


missing, directory = error_with(f"{sys.argv[1]}/missing.json"), error_with(sys.argv[1])
print(f"google-auth {version('google-auth')}: a missing file: {missing}; a folder: {directory}")
assert (missing, directory) == ("DefaultCredentialsError", "IsADirectoryError"), "the behaviour has changed"
PYTHON
