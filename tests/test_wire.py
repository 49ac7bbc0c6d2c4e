"""Messages are laid out as the tables say, forwarded as they came, and refused above the limits."""

from __future__ import annotations

import pytest
from pieces import flat as sent
from shapes import LIMITS, SHAPES, encoded, flat, plain

from aioparallel.decoder import Decoder
from aioparallel.errors import ConfigurationError, MessageTooLarge, ProtocolError
from aioparallel.wire import HEAD, LAST, PIECE, RESULT_META, SMALL, Bulk, Kind, Limits, encode, size_of

# The byte table


def test_head_is_laid_out_as_the_table_says() -> None:
    data = b"".join(encode(Kind.RESULT, 0x0102030405060708, code=0x1112, flags=LAST, engine=0x2122, header=b"hh"))
    assert data == (
        b"\x02\x00\x00\x00\x04\x01\x12\x11\x08\x07\x06\x05\x04\x03\x02\x01\x22\x21\x00\x00\x02\x00\x00\x00hh"
    )
    assert HEAD.size == 24


def test_table_is_left_out_when_there_are_fewer_than_two_buffers() -> None:
    assert size_of(encode(Kind.CALL, header=b"h", buffers=[b"abc"])) == 24 + 1 + 3
    assert b"".join(encode(Kind.CALL, header=b"h", buffers=[b"abc", b"d"]))[24:] == (b"h\x03\0\0\0\x01\0\0\0abcd")


def test_buffers_are_sent_as_they_are() -> None:
    small, large = bytearray(10), bytearray(SMALL + 1)
    assert encode(Kind.CALL, header=b"h", buffers=[b"a", small])[-1] is small
    assert encode(Kind.CALL, buffers=[small])[-1] is small
    [bulk] = encode(Kind.CALL, 7, buffers=[large], engine=3)
    assert isinstance(bulk, Bulk)
    [[head, view]] = bulk.cut(0, PIECE)
    assert isinstance(view, memoryview)
    assert view.obj is large
    assert len(bulk) == len(head) - HEAD.size + len(view) == HEAD.unpack_from(head)[0]
    assert (bulk.kind, bulk.id, bulk.engine) == (Kind.CALL, 7, 3)


def test_a_stream_is_laid_out_as_the_tables_say() -> None:
    [bulk] = encode(Kind.CALL, 7, code=2, header=b"h", buffers=[b"ab", b"", b"c"], engine=3, small=1)
    pieces = [b"".join(piece) for piece in bulk.cut(9, 32)]  # type: ignore[union-attr]
    message = (
        b"\x1c\0\0\0\0\0\0\0\x02\0\x02\0\x07\0\0\0\0\0\0\0\x03\0\x03\0\x01\0\0\0"
        b"h\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0abc"
    )
    assert pieces == [
        b"\x20\0\0\0\x08\0\0\0\x09\0\0\0\0\0\0\0\xff\xff\x01\0\0\0\0\0" + message[:32],
        b"\x18\0\0\0\x08\x01\0\0\x09\0\0\0\0\0\0\0\xff\xff\x01\0\0\0\0\0" + message[32:],
    ]


def test_a_piece_of_many_small_buffers_is_given_in_few_views() -> None:
    [bulk] = encode(Kind.CALL, buffers=[b"xy"] * 60_000)
    assert all(len(piece) <= 20 for piece in bulk.cut(0, PIECE))  # type: ignore[union-attr]


@pytest.mark.parametrize("piece", [0, -1, PIECE + 1])
def test_the_size_of_a_piece_has_bounds(piece: int) -> None:
    with pytest.raises(ConfigurationError, match=r"Limits\.piece is a number of bytes from 1 to 262,144"):
        Limits(piece=piece)


def test_result_meta_is_twenty_bytes() -> None:
    assert RESULT_META.size == 20


# Forwarding


@pytest.mark.parametrize("name", SHAPES)
def test_forwarding_changes_the_head_only(name: str) -> None:
    (frame,) = Decoder(LIMITS).feed(flat(SHAPES[name]))
    pieces = frame.forward(Kind.COMMAND, 99, code=4, flags=LAST, engine=12)
    body = pieces[0]._buffers[1:] if isinstance(pieces[0], Bulk) else pieces[1:]
    assert all(mine is theirs for mine, theirs in zip(body, frame.body, strict=True))
    (again,) = Decoder(LIMITS).feed(sent(pieces))
    assert plain(again) == (Kind.COMMAND, LAST, 4, 99, 12, *SHAPES[name][5:])
    assert again.size == frame.size
    assert size_of(pieces) == frame.size + (28 if frame.is_large else 24)


@pytest.mark.parametrize("name", SHAPES)
def test_messages_below_the_usual_size_may_be_cut_as_well(name: str) -> None:
    shape = SHAPES[name]
    data = sent(encoded(shape, small=0), size=7 if len(flat(shape)) < 1000 else 50_000)
    (frame,) = Decoder(LIMITS).feed(data)
    assert plain(frame) == shape
    (again,) = Decoder(LIMITS).feed(sent(frame.forward(*shape[:1], 1)))
    assert plain(again)[5:] == shape[5:]


def test_reprs() -> None:
    decoder = Decoder(LIMITS)
    assert repr(decoder) == "<Decoder 0 bytes waiting>"
    (frame,) = decoder.feed(flat(SHAPES["header and one buffer"]))
    assert repr(frame) == "<Frame RESULT id=1 engine=65534 code=1 12 bytes>"
    decoder.feed(flat(SHAPES["one byte more"])[:100])
    assert "1 under way" in repr(decoder)


# Headers


def test_json_header() -> None:
    (frame,) = Decoder(LIMITS).feed(b"".join(encode(Kind.NOTICE, header='{"ä": [1, null]}'.encode())))
    assert frame.json() == {"ä": [1, None]}


@pytest.mark.parametrize("header", [b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000, b"nul", b'"\xc3"'])
def test_header_that_is_not_json(header: bytes) -> None:
    (frame,) = Decoder(LIMITS).feed(sent(encode(Kind.NOTICE, header=header)))
    with pytest.raises(ProtocolError, match="not JSON"):
        frame.json()


# Limits when sending


@pytest.mark.parametrize("buffers", [[b"x" * 101], [b"x" * 60, b"x" * 33], [], [b""] * 26])
def test_message_above_the_limit_is_not_sent(buffers: list[bytes]) -> None:
    header = b"h" * (101 if not buffers else 0)
    with pytest.raises(MessageTooLarge, match=r"above the limit of 100 bytes.*raise Limits\.message"):
        encode(Kind.CALL, header=header, buffers=buffers, limit=100)


def test_message_at_the_limit_is_sent() -> None:
    assert size_of(encode(Kind.CALL, header=b"hh", buffers=[b"x" * 98], limit=100)) == 124
    assert size_of(encode(Kind.CALL, buffers=[b"x" * 46, b"x" * 46], limit=100)) == 124


def test_more_buffers_than_fit_in_the_head() -> None:
    (frame,) = Decoder(LIMITS).feed(sent(encode(Kind.CALL, buffers=[b""] * 65_535)))
    assert frame.buffers == [b""] * 65_535
    with pytest.raises(MessageTooLarge, match="65,536 buffers"):
        encode(Kind.CALL, buffers=[b""] * 65_536)
