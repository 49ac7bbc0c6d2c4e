"""What a frame is, how a call ended, and what the processes may ask and tell one another. Sans-I/O."""

from __future__ import annotations

import enum

__all__ = ["EngineCall", "HostCall", "KernelCall", "Kind", "News", "Status"]


class Kind(enum.IntEnum):
    """What a frame is."""

    BEAT = 1  # either way: still here
    CALL = 2  # do the operation `code`
    COMMAND = 3  # controller -> host -> kernel: run this payload
    RESULT = 4  # the answer to a CALL or a COMMAND
    CANCEL = 5  # the CALL or COMMAND with this id is no longer wanted
    NOTICE = 6  # something that was not asked for now: `News`; no answer
    GOODBYE = 7  # the sender closes; the header says why, as JSON
    PIECE = 8  # the next bytes of a message above `SMALL`
    MEMORY = 9  # can you open what I hold? (JSON header, `memory.Handover`)
    TAKEN = 10  # the segment of the RESULT with this id and engine is held here now


class Status(enum.IntEnum):
    """How a CALL or COMMAND ended."""

    OK = 0  # the payload is the packed value, or the header a JSON value
    ERROR = 1  # user code raised; the payload is the packed error
    FAULT = 2  # one of our own errors, as JSON in the header
    CANCELLED = 3  # it was withdrawn before it ran
    RETURNED = 4  # host -> controller: it was meant for a kernel that is gone, and has not begun
    REJECTED = 5  # user code raised `TaskRejectError`; the payload is that, packed


class News(enum.IntEnum):
    """What a NOTICE tells."""

    EVENT = 0  # something happened; the header says what, as JSON
    STDOUT = 1  # what the command `id` has written next: `OUTPUT_META`, and the payload's bytes
    STDERR = 2  # the same of its other stream
    RECORD = 3  # a log record, as JSON, for the client whose session is `id`
    VALUE = 4  # controller -> client: what an interface tells it unasked, as JSON
    TAKEN = 5  # client -> controller: so many values of the stream that the CALL `id` asked for have been taken (`KEY`)


class EngineCall(enum.IntEnum):
    """What an engine host may ask of the controller."""

    JOIN = 0  # header {"pid", "host", "python", ...}; answered with {"engine": id}
    READY = 1  # a fresh kernel serves: header {"engine", "pid"}; answered with those and {"first": id of a COMMAND}


class HostCall(enum.IntEnum):
    """What the controller may ask of an engine host, naming the engine (`NO_ENGINE`: all of them)."""

    INTERRUPT = 0  # KeyboardInterrupt in what runs
    RESTART = 1  # a fresh kernel under the same id
    STOP = 2  # end the engine
    WATCH = 3  # tell what the command `id` writes while it runs; not answered
    FORGET = 4  # the client whose session is `id` is gone: no more log records for it; not answered
    STORE = 5  # keep this payload under this `id`: commands are going to name it (`broadcast`); not answered
    DROP = 6  # keep the payload `id` no longer; not answered
    LIMIT = 7  # the COMMAND `id`, which follows, may run for so many seconds (header: `SECONDS`); not answered
    END = 8  # end the COMMAND `id`, whatever that takes; it is answered as ever, or with a `TaskAborted`
    RECALL = 9  # give the COMMAND `id` back (`Status.CANCELLED`), unless it has begun; it is answered in any case


class KernelCall(enum.IntEnum):
    """What a host may ask of a kernel."""

    SETUP = 0  # header {"engine": id, "path": [...]}
    FORGET = 1  # no more log records for the session `id`; answered when it is so
