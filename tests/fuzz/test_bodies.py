"""More of what a body can be; tests/web/test_bodies.py and test_refusals.py have the usual."""

import gzip
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Final

import pytest

from tests.support.entries import encoded, insert, push
from tests.support.exporter import Exporter, subscription
from tests.web.problems import assert_problem
from tests.web.test_bodies import connected, read_answer, request_head

_LEVELS: Final = 100_000
_DIGITS: Final = b"9" * 100_000


def lists(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def objects(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


def good(name: str) -> bytes:
    return push(insert(name), subscription=subscription("creation"))


def beside(field: bytes, name: str = "node-1") -> bytes:
    """A good envelope that has one field more, at its beginning."""
    return b"{" + field + b"," + good(name)[1:]


def around(data: bytes) -> bytes:
    return b'{"message":{"messageId":"7","data":"%s"}}' % b64encode(data)


ENVELOPE: Final = (HTTPStatus.BAD_REQUEST, "malformed_envelope")
ENTRY: Final = (HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_entry")
REFUSED: Final[Mapping[str, tuple[bytes, tuple[HTTPStatus, str]]]] = {
    "deep-list": (beside(b'"x":' + lists(_LEVELS)), ENVELOPE),
    "deep-attributes": (b'{"message":{"messageId":"7","attributes":%s}}' % objects(_LEVELS), ENVELOPE),
    "deep-unwrapped": (b'{"protoPayload":%s}' % objects(_LEVELS), ENVELOPE),
    "deep-entry-of-lists": (around(b'{"protoPayload":%s}' % lists(_LEVELS)), ENTRY),
    "deep-entry-of-objects": (around(b'{"protoPayload":%s}' % objects(_LEVELS)), ENTRY),
    "huge-number": (beside(b'"deliveryAttempt":' + _DIGITS), ENVELOPE),
    "huge-number-in-the-entry": (around(b'{"x":' + _DIGITS + b"," + encoded(insert())[1:]), ENTRY),
    "duplicate-message-last-is-none": (good("node-1").strip()[:-1] + b',"message":{}}', ENVELOPE),
    "whitespace": (b" \t\r\n" * 1000, ENVELOPE),
    "byte-order-mark": (b"\xef\xbb\xbf" + good("node-1"), ENVELOPE),
    "utf-16": (good("node-1").decode().encode("utf-16"), ENVELOPE),
    "utf-16-without-mark": (good("node-1").decode().encode("utf-16-le"), ENVELOPE),
    "latin-1": (beside(b'"x":"\xe9"'), ENVELOPE),
    "surrogate-as-bytes": (beside(b'"x":"\xed\xa0\x80"'), ENVELOPE),
    "surrogate-as-key": (beside(b'"\\ud800":1'), ENVELOPE),
    "nul-behind": (good("node-1") + b"\x00", ENVELOPE),
    "two-envelopes": (good("node-1") * 2, ENVELOPE),
    "compressed": (gzip.compress(good("node-1")), ENVELOPE),
    "ten-megabytes": (b" " * 10_000_000, (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large")),
}


@pytest.mark.parametrize(("body", "refusal"), REFUSED.values(), ids=REFUSED)
def test_a_strange_body_is_refused(
    shared_exporter: Exporter,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    refusal: tuple[HTTPStatus, str],
) -> None:
    assert_problem(shared_exporter.post("creation", body), *refusal)
    assert not caplog.records


TAKEN: Final[Mapping[str, bytes]] = {
    "endless-number": beside(b'"deliveryAttempt":1e999999', "endless-number"),
    "not-a-number": beside(b'"deliveryAttempt":NaN', "not-a-number"),
    "duplicate-message-last-is-good": beside(b'"message":{"messageId":"z","data":"*"}', "duplicate-message"),
    "deep-as-entries-are": around(b'{"x":%s,' % lists(100) + encoded(insert("deep"))[1:]),
    "many-keys": beside(b",".join(b'"k%d":1' % key for key in range(80_000)), "many-keys"),
    "many-values": beside(b'"x":[' + b"1," * 400_000 + b"1]", "many-values"),
    "escapes": beside(b'"x":"' + b"\\u0041" * 160_000 + b'"', "escapes"),
    "whitespace-around": b"\r\n\t " * 1000 + good("whitespace") + b" " * 1000,
}


@pytest.mark.parametrize("body", TAKEN.values(), ids=TAKEN)
def test_what_does_not_matter_in_a_body_is_not_minded(shared_exporter: Exporter, body: bytes) -> None:
    assert shared_exporter.post("creation", body).json()["outcome"] == "tracked"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_nothing_is_unpacked(shared_exporter: Exporter, encoding: str) -> None:
    bomb = gzip.compress(good("node-1") + b" " * 10_000_000)
    answer = shared_exporter.post("creation", bomb, headers={"content-encoding": encoding})

    assert_problem(answer, *ENVELOPE)


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_the_content_type_does_not_matter(shared_exporter: Exporter, content_type: str) -> None:
    name = f"sent-as-{len(content_type)}"
    answer = shared_exporter.post("creation", good(name), headers={"content-type": content_type})

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
def test_a_length_that_is_none_ends_the_connection(
    shared_exporter: Exporter, headers: list[str], body: bytes
) -> None:
    with connected(shared_exporter) as connection:
        connection.sendall(request_head(f"Authorization: {shared_exporter.authorization}", *headers) + body)
        answer = read_answer(connection)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_what_is_beyond_the_content_length_is_no_second_push(shared_exporter: Exporter) -> None:
    before = shared_exporter.answered("creation", "tracked")
    body = good("too-short")
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


def crumbs(body: bytes) -> Iterator[bytes]:
    for byte in body:
        yield bytes([byte])


def test_a_body_in_chunks_of_one_byte_is_read(shared_exporter: Exporter) -> None:
    answer = shared_exporter.client.post(
        f"{shared_exporter.url}/events/creation",
        content=crumbs(good("crumbs")),
        headers={"authorization": shared_exporter.authorization},
    )

    assert answer.json()["outcome"] == "tracked"


def test_nobody_waits_for_slow_bodies(shared_exporter: Exporter) -> None:
    with ExitStack() as slow:
        for _ in range(100):
            connection = slow.enter_context(connected(shared_exporter))
            connection.sendall(
                request_head(f"Authorization: {shared_exporter.authorization}", "Content-Length: 1000") + b"{"
            )
        answer = shared_exporter.create("quick")

    assert answer.json()["outcome"] == "tracked"
    assert answer.elapsed.total_seconds() < 5  # they may take twice as long
