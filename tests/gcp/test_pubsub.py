import json
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import CallerError, MalformedEntryError, MalformedEnvelopeError
from app.gcp.pubsub import PushMessage, decode_push
from tests.support.entries import (
    changed,
    cut_down,
    encoded,
    envelope,
    insert,
    legacy,
    preempted,
    without,
)

SUBSCRIPTION: Final = "projects/shop-prod/subscriptions/sie-interruption-subscription"
SOURCE: Final = "CloudPubSubDeadLetterSourceSubscription"
ENTRY: Final = encoded(preempted())
MESSAGE_ID: Final = "14027709384115206"
PUBLISH_TIME: Final = "2026-03-02T11:40:56.204Z"
MESSAGE: Final = PushMessage(ENTRY, MESSAGE_ID, SUBSCRIPTION, PUBLISH_TIME)
ENVELOPE: Final = envelope(ENTRY, message_id=MESSAGE_ID, subscription=SUBSCRIPTION, publish_time=PUBLISH_TIME)
METADATA: Final = [
    (b"content-type", b"application/x-www-form-urlencoded"),
    (b"x-goog-pubsub-message-id", MESSAGE_ID.encode()),
    (b"x-goog-pubsub-publish-time", PUBLISH_TIME.encode()),
    (b"x-goog-pubsub-subscription-name", SUBSCRIPTION.encode()),
    (b"x-goog-pubsub-ordering-key", b""),
]


@pytest.mark.parametrize(
    ("body", "decoded"),
    [
        pytest.param(ENVELOPE, MESSAGE, id="wrapped"),
        pytest.param(
            envelope(
                preempted(),
                message_id=MESSAGE_ID,
                subscription=SUBSCRIPTION,
                attributes={"team": "tills"},
                delivery_attempt=5,
            )
            | {"orderingKey": "k"},
            MESSAGE,
            id="every-field",
        ),
        pytest.param(
            without(ENVELOPE, "message.message_id", "message.publish_time"), MESSAGE, id="new-names-only"
        ),
        pytest.param(
            without(ENVELOPE, "message.messageId", "message.publishTime"), MESSAGE, id="old-names-only"
        ),
        pytest.param(changed(ENVELOPE, "message.messageId", ""), MESSAGE, id="old-id-beside-an-empty-one"),
        pytest.param(
            without(ENVELOPE, "subscription"), replace(MESSAGE, subscription=""), id="no-subscription"
        ),
        pytest.param(
            ENVELOPE | {"subscription": None}, replace(MESSAGE, subscription=""), id="null-subscription"
        ),
        pytest.param(without(ENVELOPE, "message.data"), replace(MESSAGE, data=b""), id="no-data"),
        pytest.param(
            without(ENVELOPE, "message.publishTime", "message.publish_time"),
            replace(MESSAGE, publish_time=""),
            id="no-publish-time",
        ),
        pytest.param(
            changed(ENVELOPE, "message.publishTime", "yesterday"),
            replace(MESSAGE, publish_time="yesterday"),
            id="odd-publish-time",
        ),
        pytest.param(
            changed(ENVELOPE, "message.publishTime", 1772451656),
            replace(MESSAGE, publish_time=""),
            id="numeric-publish-time",
        ),
        pytest.param(changed(ENVELOPE, "message.attributes", None), MESSAGE, id="null-attributes"),
        pytest.param(changed(ENVELOPE, "message.attributes", ["a"]), MESSAGE, id="odd-attributes"),
        pytest.param(changed(ENVELOPE, "message.orderingKey", {}), MESSAGE, id="odd-ordering-key"),
        pytest.param(ENVELOPE | {"deliveryAttempt": "many"}, MESSAGE, id="odd-delivery-attempt"),
        pytest.param(ENVELOPE | {"insertId": "x"}, MESSAGE, id="wrapped-though-it-has-an-entry's-field"),
        pytest.param(
            changed(ENVELOPE, "message.attributes", {SOURCE: "projects/shop-prod/subscriptions/first"}),
            replace(MESSAGE, dead_letter_source="projects/shop-prod/subscriptions/first"),
            id="replayed-from-a-dead-letter-topic",
        ),
        pytest.param(
            changed(ENVELOPE, "message.attributes", {SOURCE: 1}), MESSAGE, id="odd-dead-letter-source"
        ),
        pytest.param(
            changed(ENVELOPE, "message.data", "AP_-"),
            replace(MESSAGE, data=b"\x00\xff\xfe"),
            id="url-safe-base64",
        ),
        pytest.param(
            changed(ENVELOPE, "message.data", "AP/+"),
            replace(MESSAGE, data=b"\x00\xff\xfe"),
            id="standard-base64",
        ),
    ],
)
def test_wrapped(body: dict[str, Any], decoded: PushMessage) -> None:
    assert decode_push(encoded(body), METADATA[:1]) == decoded


def test_a_wrapped_message_does_not_depend_on_headers() -> None:
    headers = [(b"x-goog-pubsub-message-id", b"1"), (SOURCE.lower().encode(), b"projects/p/subscriptions/s")]

    assert decode_push(encoded(ENVELOPE), headers) == MESSAGE


@pytest.mark.parametrize(
    ("headers", "decoded"),
    [
        pytest.param([], PushMessage(ENTRY), id="without-metadata"),
        pytest.param(METADATA, MESSAGE, id="with-metadata"),
        pytest.param([(name.title(), value) for name, value in METADATA], MESSAGE, id="names-in-capitals"),
        pytest.param(
            [*METADATA, (SOURCE.lower().encode(), b"projects/shop-prod/subscriptions/first")],
            replace(MESSAGE, dead_letter_source="projects/shop-prod/subscriptions/first"),
            id="replayed-from-a-dead-letter-topic",
        ),
        pytest.param(
            [(b"x-goog-pubsub-message-id", b"\xff"), (b"x-goog-pubsub-publish-time", b"\xff")],
            PushMessage(ENTRY, "ÿ", publish_time="ÿ"),
            id="odd-values",
        ),
    ],
)
def test_unwrapped(headers: list[tuple[bytes, bytes]], decoded: PushMessage) -> None:
    assert decode_push(ENTRY, headers) == decoded


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(insert(), id="audit-log"),
        pytest.param(cut_down(insert()), id="payload-alone"),
        pytest.param(legacy(), id="json-payload"),
        pytest.param({"textPayload": "hello"}, id="text-payload"),
        pytest.param({"logName": "projects/p/logs/l"}, id="log-name"),
        pytest.param({"insertId": "x"}, id="insert-id"),
        pytest.param({"protoPayload": None}, id="null-payload"),
    ],
)
def test_a_body_with_a_field_of_log_entries_is_unwrapped(entry: dict[str, Any]) -> None:
    assert decode_push(encoded(entry)).data == encoded(entry)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="not-utf-8"),
        pytest.param(b"{", id="half-of-json"),
        pytest.param(b"message=hello", id="a-form"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"message"', id="a-string"),
        pytest.param(b"{}", id="empty"),
        pytest.param(b'{"hello": "world"}', id="something-else"),
        pytest.param(b'{"message": null}', id="null-message"),
        pytest.param(b'{"message": "hello"}', id="message-not-an-object"),
        pytest.param(b'{"message": [{"messageId": "1"}]}', id="message-a-list"),
        pytest.param(encoded({"message": None, "insertId": "x"}), id="null-message-beside-an-entry's-field"),
        pytest.param(
            encoded(without(ENVELOPE, "message.messageId", "message.message_id")), id="no-message-id"
        ),
        pytest.param(
            b'{"message": {"messageId": "", "message_id": "", "data": "e30="}}', id="empty-message-id"
        ),
        pytest.param(b'{"message": {"messageId": null, "data": "e30="}}', id="null-message-id"),
        pytest.param(b'{"message": {"messageId": 1, "data": "e30="}}', id="message-id-not-text"),
        pytest.param(b'{"message": {"data": "?"}}', id="neither-message-id-nor-data"),
        pytest.param(encoded(ENVELOPE | {"subscription": 1}), id="subscription-not-text"),
        pytest.param(encoded(ENVELOPE | {"subscription": 1, "message": {"data": 1}}), id="nothing-right"),
        pytest.param(b'{"insertId":' + b"[" * 100_000, id="deeply-nested-lists"),
        pytest.param(b'{"insertId":' * 100_000, id="deeply-nested-objects"),
        pytest.param(b'{"insertId": ' + b"9" * 5_000 + b"}", id="huge-integer"),
    ],
)
def test_a_body_that_is_neither_an_envelope_nor_an_entry_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError):
        decode_push(body, METADATA)


def test_an_unwrapped_entry_with_text_that_cannot_be_stored_is_a_malformed_entry() -> None:
    with pytest.raises(MalformedEntryError):
        decode_push(b'{"insertId": "\\ud800"}', METADATA)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(None, id="null"),
        pytest.param(1, id="number"),
        pytest.param({"protoPayload": {}}, id="object"),
        pytest.param("{}", id="json"),
        pytest.param("e30 =", id="space-within"),
        pytest.param("e30=\n", id="newline-after"),
        pytest.param("e30=e30=", id="padding-within"),
        pytest.param("e30=é", id="not-ascii"),
        pytest.param("e3\x000", id="nul"),
    ],
)
def test_data_that_is_not_base64_is_refused_as_an_entry(data: object) -> None:
    with pytest.raises(MalformedEntryError):
        decode_push(encoded(changed(ENVELOPE, "message.data", data)))


@pytest.mark.parametrize(
    ("pushed", "key"),
    [
        pytest.param(MESSAGE, f"{SUBSCRIPTION}/{MESSAGE_ID}", id="subscription-and-message-id"),
        pytest.param(replace(MESSAGE, subscription=""), f"/{MESSAGE_ID}", id="message-id-alone"),
        pytest.param(
            replace(MESSAGE, message_id="1/2 3\n"), f"{SUBSCRIPTION}/1%2F2%203%0A", id="odd-message-id"
        ),
        pytest.param(PushMessage(b"{}"), f"sha256:{sha256(b'{}').hexdigest()}", id="body"),
    ],
)
def test_key(pushed: PushMessage, key: str) -> None:
    assert pushed.key == key


@pytest.mark.parametrize(
    ("publish_time", "at"), [(PUBLISH_TIME, 1772451656.204), ("", None), ("yesterday", None)]
)
def test_published_at(publish_time: str, at: float | None) -> None:
    assert replace(MESSAGE, publish_time=publish_time).published_at == at


@pytest.mark.parametrize(
    ("named", "configured", "same"),
    [
        pytest.param(SUBSCRIPTION, SUBSCRIPTION, True, id="full-names"),
        pytest.param(SUBSCRIPTION, "sie-interruption-subscription", True, id="configured-short"),
        pytest.param("sie-interruption-subscription", SUBSCRIPTION, True, id="named-short"),
        pytest.param(
            SUBSCRIPTION,
            "projects/408213775019/subscriptions/sie-interruption-subscription",
            True,
            id="number",
        ),
        pytest.param(SUBSCRIPTION, "sie-creation-subscription", False, id="another"),
        pytest.param("subscription", SUBSCRIPTION, False, id="named-by-a-part-of-the-last-part"),
        pytest.param(SUBSCRIPTION, "subscription", False, id="a-part-of-the-last-part"),
    ],
)
def test_a_message_belongs_to_the_subscription_that_delivered_or_dead_lettered_it(
    named: str, configured: str, *, same: bool
) -> None:
    assert PushMessage(b"", subscription=named).belongs_to(configured) is same
    replay = PushMessage(b"", subscription="projects/p/subscriptions/replay", dead_letter_source=named)
    assert replay.belongs_to(configured) is same


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


@given(
    body=st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text().map(lambda text: text.encode("utf-16", "surrogatepass"))
)
def test_any_bytes_are_a_message_or_refused(body: bytes) -> None:
    with suppress(MalformedEnvelopeError, MalformedEntryError):
        assert isinstance(decode_push(body, METADATA), PushMessage)


@given(
    path=st.sampled_from(
        [
            "message",
            "subscription",
            *(
                f"message.{field}"
                for field in ("data", "messageId", "message_id", "publishTime", "attributes")
            ),
            f"message.attributes.{SOURCE}",
        ]
    ),
    value=JSON,
)
def test_any_field_may_have_any_value(path: str, value: object) -> None:
    with suppress(MalformedEnvelopeError, MalformedEntryError):
        message = decode_push(encoded(changed(envelope(preempted()), path, value)))
        assert message.key.isprintable()
        assert isinstance(message.published_at, float | None)


@given(headers=st.lists(st.tuples(st.sampled_from([name for name, _ in METADATA]), st.binary())))
def test_any_header_may_have_any_value(headers: list[tuple[bytes, bytes]]) -> None:
    message = decode_push(ENTRY, headers)

    assert message.data == ENTRY
    assert isinstance(message.published_at, float | None)


def test_refusals_never_echo_the_body() -> None:
    with pytest.raises(CallerError) as refusal:
        decode_push(b'{"message": {"messageId": "1", "data": "s3cret!"}}')

    assert "s3cret" not in f"{refusal.value} {refusal.value.__cause__}"
