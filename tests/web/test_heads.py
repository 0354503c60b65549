"""The boundaries of requests in a stream of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.heads import MAX_HEAD_BYTES, ChunkedBody, end_of_head

NEXT = b"GET / HTTP/1.1\r\n\r\n"
TRAP = b"0\r\n\r\n"


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("empty_line", [b"\r\n", b"\n"])
def test_an_empty_line_ends_a_head_whatever_its_line_ends_are(line_end: bytes, empty_line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: exporter" + line_end + empty_line

    assert {end_of_head(head[:cut]) for cut in range(len(head))} == {0}
    assert end_of_head(head + b"body\n\n") == len(head)


def chunked(pieces: list[bytes], trailers: list[bytes]) -> bytes:
    chunks = [b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    return b"".join([*chunks, b"0\r\n", *trailers, b"\r\n"])


@given(
    st.lists(st.sampled_from([b"x", TRAP, b"\n\r\n", b"\n\n" * 20, b"x" * 300])),
    st.lists(st.just(b"A: b\r\n"), max_size=3),
    st.lists(st.integers(1, 400)),
)
def test_the_end_of_a_chunked_body_is_found_however_it_is_cut(
    pieces: list[bytes], trailers: list[bytes], cuts: list[int]
) -> None:
    body = chunked(pieces, trailers)
    left, waiting, taken = body + NEXT, b"", b""
    chunks = ChunkedBody()
    for cut in [*cuts, len(left)]:
        waiting, left = waiting + left[:cut], left[cut:]
        size = chunks.take(waiting)
        taken, waiting = taken + waiting[:size], waiting[size:]

    assert chunks.has_ended
    assert (taken, waiting) == (body, NEXT)


def test_a_chunk_of_line_ends_is_one_piece() -> None:
    data = b"40000\r\n" + b"\r\n" * 0x20000

    assert ChunkedBody().take(data) == len(data)


def test_trailers_lines_and_the_number_of_chunks_are_limited() -> None:
    for data in (
        b"1\r\nx\r\n" * 20_000,
        b"0\r\n" + b"A: b\r\n" * 20_000,
        b"0\r\nA: " + b"x" * 100_000,
        b"1;a=" + b"x" * 100_000,
    ):
        chunks = ChunkedBody()
        size = chunks.take(data)
        assert chunks.is_too_large(len(data) - size)

    chunks = ChunkedBody()
    data = TRAP + b"x" * 2 * MAX_HEAD_BYTES
    assert not chunks.is_too_large(len(data) - chunks.take(data))
