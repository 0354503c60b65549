#!/usr/bin/env bash
# redis-py 8.1.0 switches an option on for a URL that says no, and takes a name in the path for database 0.
# It converts the values of some options (socket_keepalive=no is False, but "off" is not in its list). It leaves the
# others as text, which is true: decode_responses=false decodes. It removes each "/" from the path, and drops what is
# not a number. Nothing is raised. The documentation of from_url says that a database is given by the path or by `db`.
# Seen: "decode_responses=false: decodes b'a' to 'a'"; socket_keepalive True; database 0 for /shop, and 12 for /1/2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet redis==8.1.0
"$folder/venv/bin/python" - <<'PYTHON'
from redis import Redis


def options(suffix):
    return Redis.from_url(f"redis://redis.example.com{suffix}").connection_pool.connection_kwargs


decoded = Redis.from_url("redis://redis.example.com?decode_responses=false").get_encoder().decode(b"a")
print(f"decode_responses=false: decodes b'a' to {decoded!r}")
kept_alive = [options(f"?socket_keepalive={word}")["socket_keepalive"] for word in ("no", "off")]
print(f"socket_keepalive=no and =off: {kept_alive}")
databases = [options(path).get("db", 0) for path in ("/3", "/shop", "/1/2")]
print(f"databases of /3, /shop and /1/2: {databases}")
assert (decoded, kept_alive, databases) == ("a", [False, True], [3, 0, 12]), "the behaviour has changed"
PYTHON
