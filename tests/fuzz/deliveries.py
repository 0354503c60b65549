"""The ways in which a log entry is delivered, and damage to a delivery's headers."""

import json

from app.metrics import Endpoint
from tests.fuzz.draft import MARKER, Draft
from tests.fuzz.operators import ENVELOPE, apply
from tests.support.entries import JsonObject, envelope
from tests.support.program import SUBSCRIPTIONS


def text_of(draft: Draft, entry: JsonObject) -> bytes:
    """The entry as JSON."""
    # Both spellings of what is not ASCII; lone surrogates then are invalid UTF-8.
    plain = draft.below(4) == 0
    text = json.dumps(entry, ensure_ascii=not plain).encode(errors="surrogatepass")
    return text + b"\n" if draft.below(2) else text


def delivered(draft: Draft, text: bytes, endpoint: Endpoint, number: int, damage: int = 0) -> bytes:
    """The body that brings the text, bare or in an envelope that is damaged so often; adds headers."""
    subscription = f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[endpoint]}"
    way = draft.below(10)
    if way == 0:  # unwrapped
        return text
    if way == 1:  # unwrapped with metadata
        draft.headers += [
            ("x-goog-pubsub-message-id", str(number).encode()),
            ("x-goog-pubsub-subscription-name", subscription.encode()),
            ("x-goog-pubsub-publish-time", b"2026-03-02T11:40:56.204Z"),
        ]
        return text
    delivery = envelope(text, message_id=f"m{number}", subscription=subscription)
    delivery["message"]["attributes"] = {"logging.googleapis.com/timestamp": MARKER}
    if way == 2:  # replayed from the dead-letter topic
        delivery["subscription"] = "projects/shop-prod/subscriptions/replay"
        delivery["message"]["attributes"]["CloudPubSubDeadLetterSourceSubscription"] = SUBSCRIPTIONS[endpoint]
        delivery["deliveryAttempt"] = 6
    for _ in range(damage):
        apply(draft, delivery, ENVELOPE)
    return json.dumps(delivery).encode()


def damage_headers(draft: Draft) -> None:
    """Another token, or a header that is odd."""
    draft.damage.append("headers")
    match draft.below(4):
        case 0:
            draft.authorization = draft.one(
                (
                    b"",
                    b"Bearer",
                    b"Bearer ",
                    b"Basic Zm9vOmJhcg==",
                    f"Bearer {MARKER}".encode(),
                    f"Bearer {MARKER}.{MARKER}.{MARKER}".encode(),
                    b"Bearer eyJhbGciOiJub25lIn0.e30.",
                    b"Bearer \xff\xfe",
                    b"Bearer " + b"a" * 9000,
                )
            )
        case 1:
            draft.headers.append(
                ("content-type", draft.one((b"", b"text/plain", b"application/json; charset=\xff")))
            )
        case 2:
            draft.headers.append(("content-encoding", draft.one((b"gzip", b"br", b"identity", b"\xff"))))
        case _:
            name = draft.one(("message-id", "publish-time", "subscription-name", "ordering-key"))
            value = draft.one(
                (b"", b"\xff\xfe", b"x" * 2000, b"%00", b"9999-99-99T99:99:99Z", MARKER.encode())
            )
            draft.headers.append((f"x-goog-pubsub-{name}", value))
