#!/usr/bin/env bash
# redis-py 8.1.0 sends a command, and a whole transaction, again if the connection closes before the reply.
# The server may have executed it already. By default there are ten retries, also for commands that must not be
# executed twice. MULTI and EXEC do not help: the transaction is executed twice.
# Seen: "INCRBY: executed 2 times, returned 2" and "MULTI, INCRBY, EXEC: executed 2 times, returned [2]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet redis==8.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import socketserver
import threading

import redis


class Handler(socketserver.StreamRequestHandler):
    """A server with one counter. It closes the connection in place of the first reply to an increment."""

    def handle(self):
        in_transaction = False
        while words := self.read_command():
            name = words[0]
            if name == b"MULTI":
                in_transaction = True
                self.wfile.write(b"+OK\r\n")
            elif name == b"INCRBY" and in_transaction:
                self.wfile.write(b"+QUEUED\r\n")
            elif name in (b"INCRBY", b"EXEC"):
                self.server.value += 1
                if self.server.value == 1:
                    return
                self.wfile.write((b"*1\r\n" if in_transaction else b"") + b":%d\r\n" % self.server.value)
            else:
                self.wfile.write(b"+OK\r\n")

    def read_command(self):
        count = self.rfile.readline()[1:]
        return [self.read_word() for _ in range(int(count or 0))]

    def read_word(self):
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + 2)[:length]


server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()


def transaction(client):
    with client.pipeline(transaction=True) as pipeline:
        return pipeline.incr("interruptions").execute()


for name, call, expected in (
    ("INCRBY", lambda client: client.incr("interruptions"), 2),
    ("MULTI, INCRBY, EXEC", transaction, [2]),
):
    server.value = 0
    returned = call(redis.Redis(port=server.server_address[1], protocol=2))
    print(f"{name}: executed {server.value} times, returned {returned}")
    assert (server.value, returned) == (2, expected), "the behaviour has changed"
PYTHON
