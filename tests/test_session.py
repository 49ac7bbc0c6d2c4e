"""One end of a connection with no socket: handshake, frames, and what silence means on hand-fed clocks."""

from __future__ import annotations

from typing import Any

import pytest

from aioparallel.authority import Authority
from aioparallel.capability import Capability
from aioparallel.decoder import Decoder
from aioparallel.errors import ConnectionFailed, HandshakeError, ProtocolError
from aioparallel.handshake import ClientHandshake, ServerHandshake
from aioparallel.session import Handshake, Liveness, Session
from aioparallel.source import Source
from aioparallel.wire import Frame, Kind, Limits, encode

LIMITS = Limits(message=2**20, beat=2.0, suspect=6.0, dead=10.0)
SOURCE = Source(lambda n: b"\x07" * n, lambda: 1000.0)
FRAME = b"".join(encode(Kind.CALL, 1, header=b"{}"))


class Script:
    """A handshake that waits for a word, answers it, and keeps what comes behind."""

    def __init__(self, word: bytes = b"open sesame", answer: bytes = b"come in") -> None:
        self.word, self.answer, self.heard = word, answer, b""
        self.done, self.rest = False, b""

    def receive(self, data: bytes) -> bytes:
        self.heard += data
        if not self.word.startswith(self.heard[: len(self.word)]):
            raise HandshakeError("another word", b"go away")
        if len(self.heard) < len(self.word):
            return b""
        self.done, self.rest = True, self.heard[len(self.word) :]
        return self.answer


def session(handshake: Handshake | None = None, now: float = 0.0) -> Session:
    return Session(handshake or Script(), LIMITS, now=now)


def open_session(now: float = 0.0) -> Session:
    made = session(now=now)
    feed(made, b"open sesame", now)
    made.take_output()
    return made


def feed(session: Session, data: bytes, now: float = 0.0, step: int = 2**30) -> list[Frame]:
    frames = []
    while data:
        target = session.get_buffer()
        count = min(step, len(target), len(data))
        target[:count] = data[:count]
        data = data[count:]
        frames += session.buffer_updated(count, now)
    return frames


# Handshake, then frames


@pytest.mark.parametrize("step", [1, 3, 2**30])
def test_frames_follow_the_handshake_however_it_is_cut(step: int) -> None:
    made = session()
    assert repr(made) == "<Session in its handshake>"
    frames = feed(made, b"open sesame" + FRAME * 3 + FRAME[:10], step=step)
    assert [frame.id for frame in frames] == [1, 1, 1]
    assert made.is_open
    assert made.take_output() == [b"come in"]
    assert made.take_output() == []
    assert [frame.json() for frame in feed(made, FRAME[10:], step=step)] == [{}]
    assert repr(made) == "<Session open>"


def test_no_frame_before_the_handshake_is_done() -> None:
    made = session()
    with pytest.raises(HandshakeError) as caught:
        feed(made, FRAME)
    assert caught.value.reply == b"go away"
    assert not made.is_open


def test_room_for_bytes_of_the_handshake_is_small() -> None:
    made = session()
    assert 0 < len(made.get_buffer()) <= 8192
    feed(made, b"open")
    assert 0 < len(made.get_buffer()) <= 8192


def test_frame_above_the_limit_behind_the_handshake() -> None:
    made = session()
    with pytest.raises(ProtocolError):
        feed(made, b"open sesame" + b"\xff" * 24)


def real_pair(**changes: Any) -> tuple[Session, Session, bytes]:
    authority = Authority("c0ffee")
    id_, key = authority.issue("task", SOURCE)
    values: dict[str, Any] = {
        "id": id_, "interface": "task", "controller": "c0ffee", "cluster": "default", "addresses": (),
        "server_name": "", "pins": (), "certificates": (), "key": key, "caveats": (), "issued": 0.0, "serial": 1,
        "note": "",
    }  # fmt: skip
    client = ClientHandshake(
        Capability(**{**values, **changes}), fingerprint=b"", body={"nonce": "ab" * 16, "role": "client"}
    )
    server = ServerHandshake(
        authority.lookup,
        controller_id="c0ffee",
        interfaces=["task"],
        fingerprint=b"",
        nonce=bytes(32),
        now=1000.0,
        welcome=lambda grant, body: {"session": "s"},
    )
    return Session(client, LIMITS, now=0.0), Session(server, LIMITS, now=0.0), server.hello()


@pytest.mark.parametrize("step", [1, 7, 2**30])
def test_the_real_handshake_between_two_sessions(step: int) -> None:
    client, server, hello = real_pair()
    feed(client, hello, step=step)
    feed(server, b"".join(client.take_output()), step=step)
    assert server.is_open
    assert not client.is_open
    # The controller may speak at once: its first frames come with WELCOME.
    welcome = b"".join(server.take_output())
    assert [frame.id for frame in feed(client, welcome + FRAME + FRAME[:5], step=step)] == [1]
    assert client.is_open
    assert [frame.id for frame in feed(client, FRAME[5:], step=step)] == [1]
    assert [frame.id for frame in feed(server, FRAME, step=step)] == [1]


def test_the_real_handshake_says_no() -> None:
    client, server, hello = real_pair(id="f" * 32)
    feed(client, hello)
    with pytest.raises(HandshakeError) as caught:
        feed(server, b"".join(client.take_output()))
    assert not server.is_open
    assert server.take_output() == []
    with pytest.raises(ConnectionFailed, match="refused the capability"):
        feed(client, caught.value.reply)


# Signs of life


def is_beat(pieces: list[Any]) -> bool:
    if not pieces:
        return False
    (frame,) = Decoder(LIMITS).feed(b"".join(pieces))
    return frame.kind == Kind.BEAT


def test_silence_is_alive_then_suspect_then_dead() -> None:
    made = open_session(now=100.0)
    seen = [(made.tick(100.0 + 2.0 * turn)[0], made.silence(100.0 + 2.0 * turn)) for turn in range(1, 6)]
    assert seen == [
        (Liveness.ALIVE, 2.0),
        (Liveness.ALIVE, 4.0),
        (Liveness.SUSPECT, 6.0),
        (Liveness.SUSPECT, 8.0),
        (Liveness.DEAD, 10.0),
    ]


@pytest.mark.parametrize("data", [FRAME, FRAME[:1], b"".join(encode(Kind.BEAT))])
def test_anything_heard_is_a_sign_of_life(data: bytes) -> None:
    made = open_session()
    for turn in range(1, 5):
        made.tick(2.0 * turn)
    feed(made, data, now=9.5)
    assert made.tick(10.0)[0] is Liveness.ALIVE
    assert made.silence(10.0) == 0.5


def test_late_tick_excuses_the_peer() -> None:
    made = open_session()
    made.tick(2.0)
    # We were stopped for a minute: what we did not hear in it, nobody knows.
    liveness, _ = made.tick(62.0)
    assert liveness is Liveness.ALIVE
    assert made.silence(62.0) == pytest.approx(4.0)
    # From here on silence counts again.
    for now in (64.0, 66.0):
        assert made.tick(now)[0] is not Liveness.DEAD
    assert made.tick(68.0)[0] is Liveness.DEAD


def test_late_tick_never_makes_the_peer_heard_in_the_future() -> None:
    made = open_session()
    made.tick(2.0)
    feed(made, FRAME, now=61.9)
    made.tick(62.0)
    assert made.silence(62.0) == 0.0


def test_slightly_late_ticks_excuse_nothing() -> None:
    made = open_session()
    assert [made.tick(3.0 * turn)[0] for turn in range(1, 5)] == [
        Liveness.ALIVE,
        Liveness.SUSPECT,
        Liveness.SUSPECT,
        Liveness.DEAD,
    ]


def test_idle_session_beats_at_every_tick() -> None:
    made = open_session()
    for turn in range(1, 6):
        _, beat = made.tick(2.0 * turn)
        assert is_beat(beat)
        # Its owner sends it.
        made.note_sent()


def test_no_beat_after_something_else_was_sent() -> None:
    made = open_session()
    made.note_sent()
    assert made.tick(2.0)[1] == []
    assert is_beat(made.tick(4.0)[1])
    made.note_sent()  # the beat
    made.note_sent()  # and a frame
    assert made.tick(6.0)[1] == []


def test_no_beat_before_the_handshake_is_done() -> None:
    made = session()
    assert made.tick(2.0) == (Liveness.ALIVE, [])
    feed(made, b"open sesame", now=2.0)
    assert is_beat(made.tick(4.0)[1])
