"""The ways in which Pub/Sub delivers a log entry, and damage to a delivery's headers."""

import json

from app.metrics import Endpoint
from tests.fuzz.case_builder import MARKER, CaseBuilder
from tests.fuzz.json_mutations import ENVELOPE, apply
from tests.support.entries import JsonObject, envelope
from tests.support.program import SUBSCRIPTIONS


def text_of(builder: CaseBuilder, entry: JsonObject) -> bytes:
    """Return the entry as JSON."""
    # Characters outside ASCII are sometimes not escaped; lone surrogates are invalid UTF-8 then.
    unescaped = builder.below(4) == 0
    text = json.dumps(entry, ensure_ascii=not unescaped).encode(errors="surrogatepass")
    return text + b"\n" if builder.below(2) else text


def delivered(builder: CaseBuilder, text: bytes, endpoint: Endpoint, number: int, damage: int = 0) -> bytes:
    """Return a body with the text, unwrapped or in an envelope with `damage` mutations."""
    subscription = f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[endpoint]}"
    form = builder.below(10)
    if form == 0:  # unwrapped
        return text
    if form == 1:  # unwrapped with metadata
        builder.headers += [
            ("x-goog-pubsub-message-id", str(number).encode()),
            ("x-goog-pubsub-subscription-name", subscription.encode()),
            ("x-goog-pubsub-publish-time", b"2026-03-02T11:40:56.204Z"),
        ]
        return text
    delivery = envelope(text, message_id=f"m{number}", subscription=subscription)
    delivery["message"]["attributes"] = {"logging.googleapis.com/timestamp": MARKER}
    if form == 2:  # replayed from the dead-letter topic
        delivery["subscription"] = "projects/shop-prod/subscriptions/replay"
        delivery["message"]["attributes"]["CloudPubSubDeadLetterSourceSubscription"] = SUBSCRIPTIONS[endpoint]
        delivery["deliveryAttempt"] = 6
    for _ in range(damage):
        apply(builder, delivery, ENVELOPE)
    return json.dumps(delivery).encode()


def damage_headers(builder: CaseBuilder) -> None:
    """Replace the token, or add a header with an unusual value."""
    builder.damage.append("headers")
    match builder.below(4):
        case 0:
            builder.authorization = builder.choose(
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
            builder.headers.append(
                ("content-type", builder.choose((b"", b"text/plain", b"application/json; charset=\xff")))
            )
        case 2:
            builder.headers.append(
                ("content-encoding", builder.choose((b"gzip", b"br", b"identity", b"\xff")))
            )
        case _:
            name = builder.choose(("message-id", "publish-time", "subscription-name", "ordering-key"))
            value = builder.choose(
                (b"", b"\xff\xfe", b"x" * 2000, b"%00", b"9999-99-99T99:99:99Z", MARKER.encode())
            )
            builder.headers.append((f"x-goog-pubsub-{name}", value))
