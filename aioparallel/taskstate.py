"""A task at the controller: the command in an engine's queue, how it has fared, and how it ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aioparallel.errors import Death, ParallelError
from aioparallel.needs import Needs
from aioparallel.queues import Command
from aioparallel.terms import PLAIN, Terms
from aioparallel.wire import JOINED, LAST, NO_ENGINE, TRIED, Buffer, Composed, Frame, Status, size_of

if TYPE_CHECKING:
    from aioparallel.engines import Engine
    from aioparallel.interface import ClientProxy

__all__ = ["Course", "Ended", "Failure", "Home", "Report", "Task", "Value"]

#: The most tries that a RESULT can tell of.
TRIES = 255


@dataclass(frozen=True, slots=True)
class Ended:
    """How a task ended.

    Attributes:
        ok: Whether it succeeded.
        result: What an engine answered, or one of our errors.
        engine: Where it ran last, or `NO_ENGINE`.
        tried: How often it had been tried before.
        cause: What that came of: how a parent ended, or what the last engine said that refused it.
    """

    ok: bool
    result: Frame | ParallelError
    engine: int = NO_ENGINE
    tried: int = 0
    cause: Ended | None = None

    @property
    def root(self) -> Ended:
        """What it came of in the end: for those who can only be told of one cause."""
        return self.cause or self

    @property
    def size(self) -> int:
        """How many bytes it takes to keep it."""
        own = size_in(self.result) if isinstance(self.result, Frame) else 0
        return own + (self.cause.size if self.cause else 0)

    def tell(self, client: ClientProxy, number: int) -> None:
        """Answer a client's call with it; if it has a cause, that is the last of two answers."""
        tried = min(self.tried, TRIES)
        if not isinstance(self.result, Frame):
            client.fault(number, self.result, engine=self.engine, last=self.cause is None, tried=tried)
            if self.cause is not None:
                self.cause.tell(client, number)
            return
        # To the client a refusal is an error like another: whoever could have tried elsewhere has done so.
        code = Status.ERROR if self.result.code == Status.REJECTED else self.result.code
        client.forward(self.result, number, code=code + TRIED * tried, flags=LAST, engine=self.engine)


@dataclass(frozen=True, slots=True)
class Report:
    """What is kept of a task that nobody waited for.

    Attributes:
        ended: How it ended.
        submitted: When it came, wall clock.
        completed: When it ended, wall clock.
        capability: Whose holders may know of it.
    """

    ended: Ended
    submitted: float
    completed: float
    capability: str


class Failure(NamedTuple):
    """A task that has failed, for people.

    Attributes:
        id: Its number.
        label: What they call it.
        client: Whose it was, a session.
        engine: Where it ran last; None if it never did.
        why: In words, as far as the controller knows.
    """

    id: int
    label: str
    client: str
    engine: int | None
    why: str


class Value:
    """What a task gave, for those that have it as an argument.

    It is counted for the client whose tasks these are, once, for as long as one of them may need it.

    Attributes:
        users: How many.
        buffers: The packed value, once it is there.
    """

    __slots__ = ("_client", "_size", "buffers", "users")

    def __init__(self, client: ClientProxy) -> None:
        self.users = 0
        self.buffers: Sequence[Buffer] = ()
        self._client = client
        self._size = 0

    def __repr__(self) -> str:
        return f"<Value of {self._size:,} bytes, {self.users} users>"

    def arrived(self, result: Frame) -> None:
        """Take it from what an engine answered.

        Raises:
            ParallelError: It was in shared memory that is gone.
            OSError: There is no memory or no descriptor for it.
        """
        self.buffers = result.buffers
        self._size = size_of(self.buffers)
        self._client.hold(self._size)

    def let_go(self) -> None:
        """One user less."""
        self.users -= 1
        if not self.users:
            self._client.release(self._size)
            self.buffers = ()


@dataclass(slots=True)
class Course:
    """How a task has fared that is not plain, or not any more.

    Attributes:
        buffers: What it is to do, if that is not just what the client sent.
        recovery: What its recovery task is to do.
        values: What it is given of its parents.
        value: What its children are to be given of it.
        follows: Where it must run because its parents did.
        failures: How often it has failed on its present terms.
        tried: How often it has been tried.
        deaths: The kernels that died while they ran it.
        refusals: The engines that refused it, the first first.
        refusal: What the last of them said.
        deadline: Until when an engine must have taken it, loop time.
        timer: Goes off then.
        rather_not: Where it failed.
        submitted: When it came, wall clock; of a task of nobody's.
    """

    buffers: Sequence[Buffer] | None = None
    recovery: Sequence[Buffer] = ()
    values: list[Value] = field(default_factory=list)
    value: Value | None = None
    follows: frozenset[int] | None = None
    failures: int = 0
    tried: int = 0
    deaths: list[Death] = field(default_factory=list)
    refusals: dict[int, None] = field(default_factory=dict)
    refusal: Frame | None = None
    deadline: float | None = None
    timer: asyncio.TimerHandle | None = None
    rather_not: frozenset[int] = frozenset()
    submitted: float = 0.0


class Home(Protocol):
    """Where tasks are kept.

    Attributes:
        done: Takes what an engine answers.
    """

    done: Callable[[Any, Any], None]

    def take_back(self, task: Task) -> None:
        """End a task, wherever it is."""
        ...


class Task(Command):
    """One task.

    Attributes:
        id: Its number among all tasks.
        number: Which call of its owner it answers, if there is somebody who waits for that.
        owner: The client that it is counted for; `client` is None if it answers nobody.
        size: How many bytes of its owner it holds.
        terms: What is asked of it.
        course: How it has fared, if there is anything to tell.
        needs: Where it may run; None: anywhere.
        engine: Where it is now.
        since: Since when, loop time.
        ending: Since when it is being taken back from there, loop time.
        awaited: Whether somebody besides its client is to be told of its end.
        over: Whether it has ended.
    """

    __slots__ = (
        *("_home", "awaited", "course", "ending", "engine", "id"),
        *("limit", "needs", "number", "over", "owner", "since", "size", "terms"),
    )

    def __init__(self, home: Home, number: int, owner: ClientProxy, frame: Frame, label: bytes) -> None:
        super().__init__(frame, owner, home.done, label=label)
        self.id = number
        self.number = frame.id
        self.owner = owner
        self.size = frame.size
        self.terms: Terms = PLAIN
        self.course: Course | None = None
        self.needs: Needs | None = None
        self.limit: float | None = None
        self.engine: Engine | None = None
        self.since = 0.0
        self.ending: float | None = None
        self.awaited = self.over = False
        self._home = home

    def __repr__(self) -> str:
        where = f"at {self.engine!r}" if self.engine else "waiting"
        return f"<{self.title} of {self.owner.session}, {where}>"

    @property
    def call(self) -> int:
        """The number of its client's CALL, under which the client is told what it writes."""
        return self.number

    @property
    def name(self) -> str:
        """What people call it."""
        return self.label.decode("utf-8", "replace")

    @property
    def title(self) -> str:
        """Its number, and what people call it."""
        return f"task {self.id} ({self.name})" if self.label else f"task {self.id}"

    @property
    def past(self) -> Course:
        """How it has fared; from now on there is something to tell."""
        if self.course is None:
            self.course = Course()
        return self.course

    def withdraw(self) -> None:
        """The client wants it no more."""
        self._home.take_back(self)

    def agree(self, terms: Terms, buffers: Sequence[Buffer] | None = None) -> None:
        """Run on these terms from now on.

        Args:
            terms: What is asked.
            buffers: What it is to do, and its recovery task behind that; None: what the client sent.

        Raises:
            ParallelError: What the client sent was in shared memory that is gone.
            OSError: There is no memory or no descriptor for it.
        """
        past = self.past
        self.terms = terms
        self.limit = terms.timeout
        self.priority = terms.priority
        self.label = terms.label or self.label
        if buffers is not None or terms.recovery or terms.arguments or terms.properties:
            buffers = self.payload.buffers if buffers is None else buffers
            count = len(buffers) - terms.recovery_buffers
            past.buffers, past.recovery = buffers[:count], buffers[count:]
        self.look_anew()

    def recover(self) -> bool:
        """Become the recovery task; False if there is none."""
        terms = self.terms.recovery
        if terms is None:
            return False
        past = self.past
        past.failures, past.rather_not, past.deadline = 0, frozenset(), None
        past.refusals.clear()
        self.agree(terms, past.recovery)
        return True

    def look_anew(self) -> None:
        """Find out where it may run, from its terms and how it has fared."""
        wanted = [self.owner.grant.engines, self.terms.engines, self.course.follows if self.course else None]
        limits = [frozenset(engines) for engines in wanted if engines is not None]
        engines = frozenset.intersection(*limits) if limits else None
        never = frozenset(self.course.refusals) if self.course else frozenset()
        rather_not = self.course.rather_not if self.course else frozenset()
        needs = Needs(engines, self.terms.resources, never, rather_not)
        self.needs = None if needs == ANYWHERE else needs

    def make_ready(self, properties: dict[str, Any], limit: int) -> None:
        """Put its payload together for an engine, if it is not just what the client sent.

        Args:
            properties: What is noted about the engine.
            limit: Largest length of a message, bytes.

        Raises:
            MessageTooLarge: No message can be so large.
        """
        if self.course is None or self.course.buffers is None:
            return
        header, buffers = b"", list(self.course.buffers)
        if self.terms.arguments or self.terms.properties:
            values = [value.buffers for value in self.course.values] if self.terms.arguments else []
            about: dict[str, Any] = {"parts": [len(value) for value in values]}
            if self.terms.properties:
                about["properties"] = properties
            header = json.dumps(about).encode()
            for value in values:
                buffers += value
        self.payload = Composed.of(JOINED if header else 0, header, buffers, limit=limit)


ANYWHERE = Needs()


def size_in(result: Frame) -> int:
    """Return how many bytes a result takes, wherever its payload lies."""
    return result.size if result.segment is None else result.size + sum(result.loan[2])
