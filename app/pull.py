"""Pull delivery: the messages of two subscriptions, acknowledged after their commit.

The library streams messages and extends their leases in threads of its own. Everything else happens in the
event loop: a message is decoded and recorded like the body of a push.
"""

import asyncio
import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from google.cloud.pubsub_v1 import SubscriberClient
from google.cloud.pubsub_v1.subscriber.futures import StreamingPullFuture
from google.cloud.pubsub_v1.subscriber.message import Message
from google.cloud.pubsub_v1.subscriber.scheduler import Scheduler

from app.errors import BodyTooLargeError, CallerError, InternalError, StoppingError, UnavailableError
from app.gcp.pubsub import DEAD_LETTER_SOURCE, PushMessage
from app.gcp.subscriber import Finding, examine, finding_of, flow_control, make_subscriber
from app.intake import Intake, Result
from app.worker_thread import run_up_to

_EXAMINE_EVERY_SECONDS: Final = 60.0
"""The library does not say whether it is connected, so the subscription is looked at."""
_LONGEST_PAUSE_SECONDS: Final = 60.0
"""Longest pause before another attempt: to subscribe, or to deliver a refused message again."""
_LONGEST_STORE_PAUSE_SECONDS: Final = 5.0
_HAND_BACK_SECONDS: Final = 5.0
"""Longest wait, at the end, for the commits of what is in hand."""
_CLOSE_SECONDS: Final = 2.0
_CLIENT_SECONDS: Final = 0.5
"""Longest wait, at the end, for the client to close its connection."""
_REMEMBERED_REFUSALS: Final = 10_000

_log = logging.getLogger(__name__)


def pause_after(attempts: int, first_seconds: float) -> float:
    """Return the seconds to wait after this number of failures in a row: doubled each time, 60 at most."""
    return min(first_seconds * 2.0 ** max(attempts - 1, 0), _LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription, and the intake of its messages."""

    intake: Intake
    name: str
    """The whole name."""
    max_body_bytes: int
    first_pause_seconds: float
    extension_seconds: int
    """Longest time by which a lease is extended."""
    examine_seconds: float
    """Longest time for one look at the subscription."""

    def read(self, message: Message) -> PushMessage:
        """Return the message in the form in which a push brings it. Raises BodyTooLargeError."""
        if len(message.data) > self.max_body_bytes:
            raise BodyTooLargeError(
                f"the message is larger than server.max_body_bytes ({self.max_body_bytes})"
            )
        return PushMessage(
            message.data,
            message.message_id,
            self.name,
            message.publish_time.isoformat(),
            # A subscript would add a key that is missing.
            message.attributes.get(DEAD_LETTER_SOURCE, ""),
        )


class Puller:
    """Pulls from the subscriptions until it is stopped."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect lazily. Raises StartError if there are no credentials."""
        self._client = make_subscriber()
        self._is_closed = False
        self._streams = [_Stream(self._client, subscription) for subscription in subscriptions]

    def problems(self) -> Sequence[str]:
        """Return the reasons for which messages do not arrive."""
        return [stream.finding.message for stream in self._streams if stream.finding.message]

    async def run(self) -> None:
        """Pull until `stop`, and then wait to be cancelled. Only a bug ends it earlier."""
        await asyncio.gather(*(stream.run() for stream in self._streams))
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Stop pulling, commit and acknowledge what was taken, and hand back the rest."""
        await asyncio.gather(*(stream.stop() for stream in self._streams))
        if not self._is_closed:
            self._is_closed = True
            # While Pub/Sub is away, it waits up to 10 s for a thread of the library that sleeps.
            await run_up_to(_CLIENT_SECONDS, "closing Pub/Sub", self._client.close)


class _Stream:
    """The pulling from one subscription, which begins again after every error."""

    def __init__(self, client: SubscriberClient, subscription: Subscription) -> None:
        self.finding = Finding("unreachable", f"{subscription.name} has not been looked at yet")
        self._client = client
        self._subscription = subscription
        self._refusals: OrderedDict[str, int] = OrderedDict()
        """The number of refusals of each message, by message id. The oldest are forgotten."""
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        attempts = 0
        try:
            while not self._stopping.is_set():
                await self._examine()
                if self.finding.can_pull and not self._stopping.is_set() and await self._pull():
                    attempts = 0
                attempts += 1
                await self._wait(pause_after(attempts, self._subscription.first_pause_seconds))
        finally:
            self._ended.set()

    async def stop(self) -> None:
        self._stopping.set()
        await self._ended.wait()

    async def _examine(self) -> None:
        """Look at the subscription. A stop does not wait for it: closing the client ends the call."""
        name, seconds = self._subscription.name, self._subscription.examine_seconds
        examining = asyncio.create_task(asyncio.to_thread(examine, self._client, name, seconds))
        await self._wait(None, examining)
        if not examining.done():
            examining.cancel()
            return
        finding = examining.result()
        # A permission to look that was removed says nothing about the pulling.
        if finding.state != "forbidden" or self.finding.state != "ok":
            self._note(finding)

    def _note(self, finding: Finding) -> None:
        if finding != self.finding and finding.message:
            _log.warning(
                "messages cannot be pulled", extra={"reason": finding.state, "error": finding.message}
            )
        self.finding = finding

    async def _wait(self, seconds: float | None, *others: "asyncio.Future[Any]") -> None:
        """Wait until the time is over, one of the others is done, or the pulling is to stop."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *others], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _pull(self) -> bool:
        """Pull until an error or the stop. Return True if messages arrived."""
        scheduler = _Scheduler(asyncio.get_running_loop(), self._subscription, self._refusals)
        future = self._client.subscribe(
            self._subscription.name,
            _unused,
            flow_control=flow_control(self._subscription.extension_seconds),
            scheduler=scheduler,
        )
        ended = asyncio.shield(asyncio.wrap_future(future))
        try:
            while not ended.done() and not self._stopping.is_set():
                await self._wait(_EXAMINE_EVERY_SECONDS, ended)
                if not ended.done() and not self._stopping.is_set():
                    await self._examine()
        finally:
            error = await _close(future, ended)
        if error is not None and not self._stopping.is_set():
            self._note(finding_of(error, self._subscription.name))
        return scheduler.taken > 0


def _unused(_message: Message) -> None:
    """Stand in for the callback: the scheduler takes the messages itself."""


async def _close(future: StreamingPullFuture, ended: "asyncio.Future[Any]") -> Exception | None:
    """End the stream and its threads, whatever ended it, and return its error."""
    # The library can leave a stream running whose future has an error.
    future.cancel()
    done, _ = await asyncio.wait([ended], timeout=_HAND_BACK_SECONDS + _CLOSE_SECONDS)
    if not done:
        ended.cancel()
        return None
    error = None if ended.cancelled() else ended.exception()
    return error if isinstance(error, Exception) else None


class _Scheduler(Scheduler):  # type: ignore[misc]  # the library has no types
    """Takes the messages of one stream into the event loop. The library calls `schedule` and `shutdown`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        subscription: Subscription,
        refusals: OrderedDict[str, int],
    ) -> None:
        self.taken = 0
        self._subscription = subscription
        self._loop = loop
        self._refusals = refusals
        self._requests: queue.Queue[Any] = queue.Queue()
        self._arrived: deque[Message] = deque()
        self._lock = threading.Lock()
        self._in_hand: dict[str, Message] = {}
        """Messages that are neither acknowledged nor handed back, by ack id."""
        self._delayed: dict[str, asyncio.TimerHandle] = {}
        """The negative acknowledgements to come, by ack id."""
        self._closing = False
        self._empty = threading.Event()

    # called by threads of the library

    @property
    def queue(self) -> queue.Queue[Any]:
        """The requests of messages to the library, such as acknowledgements."""
        return self._requests

    def schedule(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Take a message, which is the only argument."""
        with self._lock:
            first = not self._arrived
            self._arrived.append(args[0])
        if first:
            self._loop.call_soon_threadsafe(self._take)

    def shutdown(self, await_msg_callbacks: bool = False) -> list[Message]:  # noqa: ARG002, FBT001, FBT002
        """Wait until what is in hand is committed and acknowledged; return the rest, to be handed back."""
        try:
            self._loop.call_soon_threadsafe(self._begin_close)
        except RuntimeError:  # the loop is closed
            return list(self._in_hand.values())
        self._empty.wait(_HAND_BACK_SECONDS)
        rest, self._in_hand = list(self._in_hand.values()), {}
        return rest

    # called by the event loop

    def _take(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, deque()
        for message in arrived:
            self.taken += 1
            self._in_hand[message.ack_id] = message
            self._handle(message)

    def _handle(self, message: Message, attempts: int = 1) -> None:
        """Record a message. `attempts` is the number of attempts, which fail while the store is away."""
        self._subscription.intake.receive(
            partial(self._subscription.read, message), partial(self._finish, message, attempts)
        )

    def _finish(self, message: Message, attempts: int, result: Result) -> None:
        """Acknowledge a recorded message; keep one that the store could not take."""
        if isinstance(result, UnavailableError):
            if self._closing or isinstance(result, StoppingError):
                self._release(message, acknowledge=False)
            else:  # meanwhile the library extends the message's lease
                pause = pause_after(attempts, self._subscription.first_pause_seconds) / 2
                self._loop.call_later(
                    min(pause, _LONGEST_STORE_PAUSE_SECONDS), self._handle, message, attempts + 1
                )
        elif isinstance(result, CallerError | InternalError):
            self._refuse(message)
        else:
            self._release(message, acknowledge=True)

    def _refuse(self, message: Message) -> None:
        """Refuse a message. Its negative acknowledgement waits longer after each refusal."""
        attempts = self._refusals.pop(message.message_id, 0) + 1
        self._refusals[message.message_id] = attempts
        if len(self._refusals) > _REMEMBERED_REFUSALS:
            self._refusals.popitem(last=False)
        if self._closing:
            self._release(message, acknowledge=False)
        else:
            pause = pause_after(attempts, self._subscription.first_pause_seconds)
            self._delayed[message.ack_id] = self._loop.call_later(pause, self._refuse_now, message)

    def _refuse_now(self, message: Message) -> None:
        self._delayed.pop(message.ack_id, None)
        self._release(message, acknowledge=False)

    def _release(self, message: Message, *, acknowledge: bool) -> None:
        """Acknowledge a message, or give it back."""
        if self._in_hand.pop(message.ack_id, None) is None:
            return  # its lease has ended
        if acknowledge:
            self._refusals.pop(message.message_id, None)
            message.ack()
        else:
            message.nack()
        self._note_empty()

    def _begin_close(self) -> None:
        self._closing = True
        delayed, self._delayed = self._delayed, {}
        for ack_id, timer in delayed.items():
            timer.cancel()
            if ack_id in self._in_hand:
                self._release(self._in_hand[ack_id], acknowledge=False)
        self._note_empty()

    def _note_empty(self) -> None:
        if self._closing and not self._in_hand:
            self._empty.set()
