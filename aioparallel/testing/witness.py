"""Who reads along on every connection of a simulation, and knows nothing else: was each promise kept?

What is held, of commands (a lease is a command that a host was sent and has not answered):

* a host answers a command that it was sent, and once;
* a task has one lease at a time; another one only when the last ended without a result that counts;
* a result that a client gets is one that an engine gave for that very task;
* a call is answered to its end once, and none that was not made;
* a death counts for the command that ran in that kernel, and for no other.

A task is known by its packed call, so these hold where no two tasks of a simulation are packed alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aioparallel.decoder import Decoder
from aioparallel.errors import ProtocolError
from aioparallel.limits import Limits
from aioparallel.proof import Splitter
from aioparallel.wire import LAST, STORED, TRIED, EngineCall, Frame, HostCall, Kind, News, Status

__all__ = ["Witness"]

#: How many deaths a task must have caused to be given up, and as what it is given up.
STRIKES, POISONED = 3, ("EngineDied", "EngineLost", "TaskPoisoned")
#: Operations whose payload becomes a command, by interface; and those of tasks that say on which terms.
WORK = {"task": ("submit", "submit_with", "run"), "multiengine": ("submit", "set_up")}
ON_TERMS = ("submit_with", "run")
#: Answers of engines after which a command has not begun, and those after which it has failed.
NOT_BEGUN, HAS_FAILED = ("RETURNED", "CANCELLED", "REJECTED", "spared"), ("ERROR", "FAULT")


class _Ear:
    """What comes by in one direction: some messages of the handshake, then frames."""

    def __init__(self, messages: int, limits: Limits) -> None:
        self._left = messages
        self._splitter = Splitter(messages)
        self._decoder = Decoder(limits)
        self.said: list[Any] = []

    def feed(self, data: memoryview) -> list[Frame]:
        """Return the frames that are now whole."""
        if self._left:
            whole = self._splitter.feed(data)
            self.said += map(json.loads, whole)
            self._left -= len(whole)
            return self._decoder.feed(self._splitter.rest) if not self._left else []
        return self._decoder.feed(data)


@dataclass(slots=True)
class _Lease:
    """A command that was sent to a host."""

    ear: _Conversation
    number: int
    engine: int
    work: _Work | None
    answered: str = ""

    @property
    def open(self) -> bool:
        """Whether it can still be answered, as far as the controller knows."""
        return not self.answered and self.ear.is_open()


@dataclass(slots=True)
class _Work:
    """A call whose payload is for engines.

    Attributes:
        key: What it is known by.
        name: Whose it is, for people.
        interface: By which it was made.
        once: Whether it may run once at most.
        alike: Whether another call is packed alike: then nobody can tell whose command is whose.
        leases: The commands that were sent for it.
        results: What engines answered.
        excused: Whether its client was told that it can't run: what follows is of another task, or a refusal.
        done: Whether its client has been answered.
    """

    key: bytes
    name: str
    interface: str
    once: bool = False
    alike: bool = False
    leases: list[_Lease] = field(default_factory=list)
    results: set[bytes] = field(default_factory=set)
    excused: bool = False
    done: bool = False


class _Conversation:
    """One connection."""

    def __init__(self, name: str, limits: Limits, is_open: Callable[[], bool]) -> None:
        self.name = name
        self.is_open = is_open
        self.up, self.down = _Ear(1, limits), _Ear(2, limits)
        self.calls: dict[int, _Work | str] = {}
        self.cancelled: set[int] = set()
        self.leases: dict[int, _Lease] = {}
        self.asked: set[int] = set()
        #: The last answer of a host, and the commands that it is made to answer twice.
        self.last: Frame | None = None
        self.echoes: list[int] = []

    @functools.cached_property
    def interface(self) -> str:
        """What it is for; to be asked when frames come, behind the handshake."""
        return str(json.loads(self.up.said[0]["body"])["interface"])

    def operation(self, code: int) -> str:
        """Return the name of an operation."""
        names = self.down.said[1].get("ops", []) if len(self.down.said) > 1 else []
        return str(names[code]) if code < len(names) else f"operation {code}"


class Witness:
    """See the module.

    Args:
        limits: The bounds.
        note: Called with who, what, and what about it, for the trace.
        accuse: Called with the words of a promise that was broken.
    """

    def __init__(self, limits: Limits, note: Callable[..., None], accuse: Callable[[str], None]) -> None:
        self._limits = limits
        self._note = note
        self._accuse = accuse
        self._conversations: list[_Conversation] = []
        self._work: dict[bytes, _Work] = {}
        #: What ran in kernels when they ended, by the id of the command.
        self._killed: set[int] = set()

    def __repr__(self) -> str:
        return f"<Witness of {len(self._conversations)} connections>"

    def listen(self, name: str, is_open: Callable[[], bool]) -> Callable[[str, memoryview], None]:
        """Return what is to be told of all that is sent on a connection.

        Args:
            name: Whose it is.
            is_open: Whether the controller has it open.
        """
        conversation = _Conversation(name, self._limits, is_open)
        self._conversations.append(conversation)

        def heard(direction: str, data: memoryview) -> None:
            ear = conversation.up if direction == "up" else conversation.down
            try:
                frames = ear.feed(data)
            except ProtocolError as error:
                self._accuse(f"{name}: what was sent {direction} breaks the rules of the wire: {error}")
                return
            for frame in frames:
                if frame.kind != Kind.BEAT:
                    self._frame(conversation, direction, frame)

        return heard

    def kernel_ended(self, running: int | None) -> None:
        """Take note of the command in which a kernel ended."""
        if running is not None:
            self._killed.add(running)

    def unanswered(self) -> list[str]:
        """Return the calls that wait for an answer on connections that are open, in words."""
        return [
            f"{each.name}: call {number}, {call if isinstance(call, str) else call.name}"
            for each in self._conversations
            if each.is_open()
            for number, call in each.calls.items()
            if number not in each.cancelled or each.interface == "task"
        ]

    def leased(self) -> list[str]:
        """Return the commands that hosts have not answered, in words."""
        return [
            f"{each.name}: command {lease.number} for engine {lease.engine}"
            for each in self._conversations
            for lease in each.leases.values()
            if lease.open
        ]

    def echo(self, name: str) -> bytes | None:
        """Return the bytes of a host's last answer, and expect them once more."""
        for host in reversed(self._conversations):
            if host.name == name and host.last is not None and not host.last.is_large:
                host.echoes.append(host.last.id)
                last = host.last
                return b"".join(last.forward(Kind.RESULT, last.id, code=last.code, engine=last.engine))  # type: ignore[arg-type]
        return None

    # What comes by

    def _frame(self, conversation: _Conversation, direction: str, frame: Frame) -> None:
        if conversation.interface == "engine":
            (self._from_host if direction == "up" else self._to_host)(conversation, frame)
        else:
            (self._from_client if direction == "up" else self._to_client)(conversation, frame)

    def _from_client(self, client: _Conversation, frame: Frame) -> None:
        if frame.kind == Kind.CALL:
            operation = client.operation(frame.code)
            work: _Work | str = operation
            if operation in WORK.get(client.interface, ()) and (key := _key(frame)):
                once = operation in ON_TERMS and bool(frame.json().get("at_most_once"))
                known = self._known(key, f"{client.name}'s {frame.id}", client.interface, once)
                work = operation if operation == "run" else known
            client.calls[frame.id] = work
            self._note(client.name, "calls {0}: {1} {2}", frame.id, operation, frame.header[:200])
        elif frame.kind == Kind.CANCEL:
            client.cancelled.add(frame.id)
            self._note(client.name, "cancels {0}", frame.id)

    def _known(self, key: bytes, name: str, interface: str, once: bool) -> _Work:
        """Return what is known of a call that is made."""
        known = self._work.get(key)
        if known is None:
            known = self._work[key] = _Work(key, name, interface, once)
        else:
            known.alike = True
        return known

    def _to_client(self, client: _Conversation, frame: Frame) -> None:
        if frame.kind != Kind.RESULT:
            return
        tried, code = divmod(frame.code, TRIED)
        call = client.calls.get(frame.id)
        last = bool(frame.flags & LAST)
        about = frame.header[:300] if code == Status.FAULT else b""
        self._note(client.name, "is answered {0}: {1}, tried {2} {3}", frame.id, Status(code).name, tried, about)
        if call is None:
            self._accuse(f"{client.name}: call {frame.id} was answered again, or never made")
            return
        if isinstance(call, _Work) and call.interface == "task":
            self._task_answered(call, frame, code, tried, last=last)
        if last:
            del client.calls[frame.id]
            client.cancelled.discard(frame.id)

    def _task_answered(self, work: _Work, frame: Frame, code: int, tried: int, *, last: bool) -> None:
        if not last:
            work.excused = True
            return
        work.done = True
        if code == Status.FAULT and not work.leases:
            # It may come again: what it depends on had been answered.
            self._work.pop(work.key, None)
        if code in (Status.OK, Status.ERROR) and not work.excused and _value(frame) not in work.results:
            self._accuse(f"{work.name} was answered with what no engine gave for it")
        self._count_tries(work, frame, code, tried)

    def _count_tries(self, work: _Work, frame: Frame, code: int, tried: int) -> None:
        """Compare how often a task is said to have been tried with how often it was."""
        if work.alike or work.excused:
            return
        before = work.leases[:-1] if work.leases and work.leases[-1].answered in HAS_FAILED else work.leases
        deaths = sum(lease.answered == "died" for lease in work.leases)
        failures = sum(lease.answered in HAS_FAILED for lease in before)
        lost = sum(not lease.answered and not lease.ear.is_open() for lease in work.leases)
        if code == Status.FAULT and frame.json().get("error") in POISONED and not work.once and deaths + lost < STRIKES:
            self._accuse(f"{work.name} was given up after {deaths} deaths of kernels and {lost} of hosts that ran it")
        if code in (Status.OK, Status.ERROR) and not deaths + failures <= tried <= deaths + failures + lost:
            self._accuse(
                f"{work.name} is said to have been tried {tried} times before; kernels died of it {deaths} times, it "
                f"failed {failures} times, its host was lost {lost} times"
            )

    def _to_host(self, host: _Conversation, frame: Frame) -> None:
        if frame.kind == Kind.COMMAND:
            work = None if frame.code == STORED else self._work.get(_key(frame) or b"")
            lease = host.leases[frame.id] = _Lease(host, frame.id, frame.engine, work)
            name = "a command" if work is None else work.name
            self._note(host.name, "is sent {0} for engine {1}: {2}", frame.id, frame.engine, name)
            if work is not None:
                self._granted(work, lease)
        elif frame.kind == Kind.CANCEL:
            self._note(host.name, "is told that {0} is not wanted", frame.id)
        elif frame.kind == Kind.CALL:
            if frame.code in (HostCall.INTERRUPT, HostCall.RESTART, HostCall.STOP):
                host.asked.add(frame.id)
            asked = _name(HostCall, frame.code)
            self._note(host.name, "is asked: {0} {1} at engine {2}", asked, frame.id, frame.engine)

    def _granted(self, work: _Work, lease: _Lease) -> None:
        """A command is sent: was that right?"""
        if work.alike:
            return
        earlier = [each for each in work.leases if work.interface == "task" or each.engine == lease.engine]
        work.leases.append(lease)
        if any(each.open for each in earlier):
            self._accuse(f"{work.name} was sent to engine {lease.engine} while another one has it")
        if any(each.answered == "OK" for each in earlier):
            self._accuse(f"{work.name} was sent to engine {lease.engine} after it had been done")
        if work.done and work.interface == "task":
            self._accuse(f"{work.name} was sent to engine {lease.engine} after its client had been answered")
        begun = [each for each in earlier if each.answered not in NOT_BEGUN]
        if begun and (work.once or work.interface != "task"):
            self._accuse(f"{work.name} was sent to engine {lease.engine} again, and may run once at most")

    def _from_host(self, host: _Conversation, frame: Frame) -> None:
        if frame.kind == Kind.RESULT:
            lease = host.leases.pop(frame.id, None)
            if lease is not None:
                self._note(host.name, "answers {0}: {1}", frame.id, _name(Status, frame.code))
                self._answered(lease, frame)
                host.last = frame
            elif frame.id in host.echoes:
                host.echoes.remove(frame.id)
            elif frame.id in host.asked:
                host.asked.discard(frame.id)
            else:
                self._accuse(f"{host.name} answered command {frame.id}, which it did not have (any more)")
        elif frame.kind == Kind.CALL:
            self._note(host.name, "says {0} for engine {1}", _name(EngineCall, frame.code), frame.engine)
        elif frame.kind == Kind.NOTICE and frame.code == News.EVENT:
            self._note(host.name, "tells {0}", frame.header)

    def _answered(self, lease: _Lease, frame: Frame) -> None:
        lease.answered = _name(Status, frame.code)
        if frame.code == Status.FAULT:
            fault = frame.json()
            if fault.get("error") == "EngineDied":
                died = bool(fault.get("running"))
                lease.answered = "died" if died else "spared"
                if died and lease.number not in self._killed:
                    self._accuse(f"engine {lease.engine} is said to have died in command {lease.number}, and did not")
        elif lease.work is not None and frame.code in (Status.OK, Status.ERROR, Status.REJECTED):
            lease.work.results.add(_value(frame))


def _key(frame: Frame) -> bytes | None:
    """Return what tells the payload of a frame from others."""
    buffers: Sequence[Any] = frame.buffers
    return bytes(buffers[0]) if buffers else None


def _value(frame: Frame) -> bytes:
    return b"".join(bytes(buffer) for buffer in frame.buffers)


def _name(kind: Any, code: int) -> str:
    try:
        return str(kind(code).name)
    except ValueError:
        return str(code)
