"""The client library's subscriber, which acknowledges every message at once.

`python -m tests.bench.library_alone PORT NAME...`. NAME is the whole name of a subscription. A GET on the
port answers the number of messages of each subscription as a JSON object. The variable PUBSUB_EMULATOR_HOST
names the emulator.
"""

import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.cloud.pubsub_v1 import SubscriberClient
from google.cloud.pubsub_v1.subscriber.message import Message

from tests.support.process import LOOPBACK

_counts: Counter[str] = Counter()


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(_counts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


def main() -> None:
    """Acknowledge messages until a signal."""
    port, *names = sys.argv[1:]
    client = SubscriberClient()
    for name in names:

        def acknowledge(message: Message, name: str = name) -> None:
            _counts[name] += 1
            message.ack()

        client.subscribe(name, acknowledge)
    ThreadingHTTPServer((LOOPBACK, int(port)), _Answer).serve_forever()


if __name__ == "__main__":
    main()
