"""The fault of a SIGTERM under load."""

import asyncio
import base64
import json
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tests.chaos.comparison import read_ledger
from tests.chaos.fault_check import Size, check
from tests.chaos.load import port_of, running, traffic_of
from tests.chaos.push_sender import CALLERS, PushConnection, PushSender
from tests.chaos.traffic import Message, Traffic
from tests.support.program import ExporterProcess, issued_credentials


def sigterm(directory: Path, size: Size, seed: int) -> str:
    """Send SIGTERM. Each caller gets a complete answer or none; the ledger has what was acknowledged."""
    with issued_credentials() as credentials, ExporterProcess(directory, credentials) as exporter:
        creations, interruptions = _split(traffic_of(size, seed))
        sender = PushSender(
            port_of(exporter), creations, token=lambda: credentials.token, short_timeout_share=0
        )
        with running(sender):
            pass
        shutdown = _PushesDuringShutdown(exporter, interruptions, credentials.token)
        asyncio.run(shutdown.run())
        stopping = time.monotonic()
        status = exporter.process.wait(within=15)
        took = time.monotonic() - stopping
        exporter.process.start()
        rows = read_ledger(exporter.client, f"http://{exporter.metrics_address}")
        acknowledged = {_identity(message) for message in shutdown.acknowledged}
        cut_off = {_identity(message) for message in shutdown.cut_off}
        check(status == 0, f"exit status {status}")
        check(not shutdown.errors, f"answers: {dict(shutdown.errors)}")
        lost = acknowledged - rows.keys()
        check(not lost, f"{len(lost)} events were acknowledged and are not in the ledger")
        unanswered = (cut_off & rows.keys()) - acknowledged
        check(not unanswered, f"{len(unanswered)} events are in the ledger and were not answered")
        return (
            f"{len(shutdown.acknowledged)} acknowledged, refused {dict(shutdown.refused)},"
            f" {len(shutdown.cut_off)} pushes without an answer, none of their events stored;"
            f" exit status 0 after {took:.1f} s"
        )


def _split(traffic: Traffic) -> tuple[list[Message], list[Message]]:
    """Return the creations and the interruptions, each without redeliveries."""
    first: dict[object, Message] = {}
    for message in traffic.messages:
        first.setdefault((message.endpoint, _identity(message)), message)
    return (
        [message for message in first.values() if message.endpoint == "creation"],
        [message for message in first.values() if message.endpoint == "interruption"],
    )


def _identity(message: Message) -> tuple[str, str]:
    """Return the instance id and the time of a message's log entry, as in the ledger."""
    entry = json.loads(base64.b64decode(json.loads(message.body)["message"]["data"]))
    return entry["resource"]["labels"]["instance_id"], datetime.fromisoformat(entry["timestamp"]).isoformat()


class _PushesDuringShutdown:
    """Pushes until the exporter has ended, and their results. SIGTERM comes when half are acknowledged."""

    def __init__(self, exporter: ExporterProcess, messages: Sequence[Message], token: str) -> None:
        self.acknowledged: list[Message] = []
        self.cut_off: list[Message] = []
        """Pushes without any answer, over a connection that was not accepted or already closed."""
        self.errors: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._exporter = exporter
        self._queue = deque(messages)
        self._half = len(messages) // 2
        self._token = token
        self._signalled_at = float("inf")

    async def run(self) -> None:
        """Push until the exporter has ended."""
        # Half of the callers open a connection per request, so some connections are not accepted at the end.
        await asyncio.gather(*(self._run_caller(reconnect=number % 2 == 0) for number in range(2 * CALLERS)))

    async def _run_caller(self, *, reconnect: bool) -> None:
        async with PushConnection(port_of(self._exporter)) as connection:
            while self._queue:
                try:
                    await self._push(connection, self._queue.popleft())
                except ConnectionRefusedError:
                    self.refused["not connected"] += 1
                    return
                if reconnect:
                    connection.close()
                if len(self.acknowledged) >= self._half and self._signalled_at == float("inf"):
                    self._signalled_at = time.monotonic()
                    self._exporter.process.send(signal.SIGTERM)

    async def _push(self, connection: PushConnection, message: Message) -> None:
        was_open, began = connection.is_open, time.monotonic()
        try:
            answer = await connection.post(f"/events/{message.endpoint}", message.body, self._token)
        except ConnectionRefusedError:
            raise
        except (OSError, EOFError) as exc:
            self.cut_off.append(message)
            if isinstance(exc, (TimeoutError, EOFError)):
                self.errors["incomplete or late"] += 1
            elif was_open and began < self._signalled_at:
                self.errors["missing, although pushed before SIGTERM"] += 1
        else:
            if answer.status == 200:
                self.acknowledged.append(message)
            else:
                self.refused[answer.outcome] += 1
