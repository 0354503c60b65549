"""Unusual bodies and lengths; tests/web/test_bodies.py and test_refusals.py test the usual ones."""

import gzip
import select
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final

import pytest

from tests.support.entries import encoded, insert, push
from tests.support.exporter import Exporter, subscription
from tests.support.raw_http import connected, read_answer, request_head
from tests.web.problems import assert_problem

_LEVELS: Final = 100_000
_DIGITS: Final = b"9" * 100_000


def lists(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def objects(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def envelope(name: str) -> bytes:
    return push(insert(name), subscription=subscription("creation"))


def with_field(field: bytes, name: str = "node-1") -> bytes:
    """Return a valid envelope with an additional field at its start."""
    return b"{" + field + b"," + envelope(name)[1:]


def envelope_of(data: bytes) -> bytes:
    return b'{"message":{"messageId":"7","data":"%s"}}' % b64encode(data)


ENVELOPE: Final = (HTTPStatus.BAD_REQUEST, "malformed_envelope")
ENTRY: Final = (HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_entry")
REFUSED: Final[Mapping[str, tuple[bytes, tuple[HTTPStatus, str]]]] = {
    "deep-list": (with_field(b'"x":' + lists(_LEVELS)), ENVELOPE),
    "deep-attributes": (b'{"message":{"messageId":"7","attributes":%s}}' % objects(_LEVELS), ENVELOPE),
    "deep-unwrapped": (b'{"protoPayload":%s}' % objects(_LEVELS), ENVELOPE),
    "deep-entry-of-lists": (envelope_of(b'{"protoPayload":%s}' % lists(_LEVELS)), ENTRY),
    "deep-entry-of-objects": (envelope_of(b'{"protoPayload":%s}' % objects(_LEVELS)), ENTRY),
    "huge-number": (with_field(b'"deliveryAttempt":' + _DIGITS), ENVELOPE),
    "huge-number-in-the-entry": (envelope_of(b'{"x":' + _DIGITS + b"," + encoded(insert())[1:]), ENTRY),
    "duplicate-message-last-is-empty": (envelope("node-1").strip()[:-1] + b',"message":{}}', ENVELOPE),
    "whitespace": (b" \t\r\n" * 1000, ENVELOPE),
    "byte-order-mark": (b"\xef\xbb\xbf" + envelope("node-1"), ENVELOPE),
    "utf-16": (envelope("node-1").decode().encode("utf-16"), ENVELOPE),
    "utf-16-without-mark": (envelope("node-1").decode().encode("utf-16-le"), ENVELOPE),
    "latin-1": (with_field(b'"x":"\xe9"'), ENVELOPE),
    "surrogate-as-bytes": (with_field(b'"x":"\xed\xa0\x80"'), ENVELOPE),
    "surrogate-as-key": (with_field(b'"\\ud800":1'), ENVELOPE),
    "nul-at-the-end": (envelope("node-1") + b"\x00", ENVELOPE),
    "two-envelopes": (envelope("node-1") * 2, ENVELOPE),
    "compressed": (gzip.compress(envelope("node-1")), ENVELOPE),
    "ten-megabytes": (b" " * 10_000_000, (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large")),
}


@pytest.mark.parametrize(("body", "refusal"), REFUSED.values(), ids=REFUSED)
def test_an_unusual_body_that_is_not_an_envelope_is_refused(
    shared_exporter: Exporter,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    refusal: tuple[HTTPStatus, str],
) -> None:
    assert_problem(shared_exporter.post("creation", body), *refusal)
    assert {record.message for record in caplog.records} <= {"pushes refused"}


ACCEPTED: Final[Mapping[str, bytes]] = {
    "endless-number": with_field(b'"deliveryAttempt":1e999999', "endless-number"),
    "not-a-number": with_field(b'"deliveryAttempt":NaN', "not-a-number"),
    "duplicate-message-last-is-valid": with_field(
        b'"message":{"messageId":"z","data":"*"}', "duplicate-message"
    ),
    "deep-as-entries-are": envelope_of(b'{"x":%s,' % lists(100) + encoded(insert("deep"))[1:]),
    "many-keys": with_field(b",".join(b'"k%d":1' % key for key in range(80_000)), "many-keys"),
    "many-values": with_field(b'"x":[' + b"1," * 400_000 + b"1]", "many-values"),
    "escapes": with_field(b'"x":"' + b"\\u0041" * 160_000 + b'"', "escapes"),
    "whitespace-around": b"\r\n\t " * 1000 + envelope("whitespace") + b" " * 1000,
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_an_unusual_body_with_a_valid_envelope_is_accepted(shared_exporter: Exporter, body: bytes) -> None:
    assert shared_exporter.post("creation", body).json()["outcome"] == "tracked"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_compressed_body_is_not_decompressed(shared_exporter: Exporter, encoding: str) -> None:
    bomb = gzip.compress(envelope("node-1") + b" " * 10_000_000)
    answer = shared_exporter.post("creation", bomb, headers={"content-encoding": encoding})

    assert_problem(answer, *ENVELOPE)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_the_content_type_does_not_matter(shared_exporter: Exporter, content_type: str) -> None:
    name = f"sent-as-{len(content_type)}"
    answer = shared_exporter.post("creation", envelope(name), headers={"content-type": content_type})

    assert answer.json()["outcome"] == "tracked"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param(["Content-Length: -1"], b"{}", id="negative"),
        pytest.param(["Content-Length: ten"], b"{}", id="a-word"),
        pytest.param([f"Content-Length: {10**25}"], b"{}", id="beyond-64-bits"),
        pytest.param(["Content-Length: 2", "Content-Length: 3"], b"{}", id="two-lengths"),
        pytest.param(
            ["Content-Length: 2", "Transfer-Encoding: chunked"],
            b"2\r\n{}\r\n0\r\n\r\n",
            id="length-and-chunks",
        ),
        pytest.param(["Transfer-Encoding: chunked, chunked"], b"0\r\n\r\n", id="chunked-twice"),
        pytest.param(["Transfer-Encoding: gzip"], b"{}", id="not-chunked"),
        pytest.param(["Transfer-Encoding: chunked"], b"ZZ\r\n{}\r\n0\r\n\r\n", id="chunk-size-a-word"),
        pytest.param(["Transfer-Encoding: chunked"], b"F" * 20 + b"\r\n", id="chunk-size-beyond-64-bits"),
        pytest.param(["Content-Length : 2"], b"{}", id="space-before-the-colon"),
    ],
)
def test_an_invalid_length_is_refused_and_ends_the_connection(
    shared_exporter: Exporter, headers: list[str], body: bytes
) -> None:
    with connected(shared_exporter) as connection:
        connection.sendall(request_head(f"Authorization: {shared_exporter.authorization}", *headers) + body)
        answer = read_answer(connection)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_bytes_after_the_content_length_are_not_a_second_push(shared_exporter: Exporter) -> None:
    before = shared_exporter.answered("creation", "tracked")
    body = envelope("too-short")
    with connected(shared_exporter) as connection:
        connection.sendall(
            request_head(
                f"Authorization: {shared_exporter.authorization}", f"Content-Length: {len(body) // 2}"
            )
            + body
        )
        answer = read_answer(connection)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert shared_exporter.answered("creation", "tracked") == before


def single_bytes(body: bytes) -> Iterator[bytes]:
    for byte in body:
        yield bytes([byte])


def test_a_body_in_chunks_of_one_byte_is_read(shared_exporter: Exporter) -> None:
    answer = shared_exporter.client.post(
        f"{shared_exporter.url}/events/creation",
        content=single_bytes(envelope("single-bytes")),
        headers={"authorization": shared_exporter.authorization},
    )

    assert answer.json()["outcome"] == "tracked"


def test_slow_bodies_do_not_delay_other_pushes(shared_exporter: Exporter) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(shared_exporter)) for _ in range(100)]
        for connection in slow:
            connection.sendall(
                request_head(f"Authorization: {shared_exporter.authorization}", "Content-Length: 1000") + b"{"
            )
        answer = shared_exporter.create("quick")
        answered, _, _ = select.select(slow, [], [], 0)

    assert answer.json()["outcome"] == "tracked"
    assert not answered
