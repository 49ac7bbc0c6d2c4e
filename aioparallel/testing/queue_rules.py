"""What a queue must do, rule by rule: `check_queue(MyQueue)`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from aioparallel import queues
from aioparallel.errors import PluginError
from aioparallel.queues import Command, Queue
from aioparallel.testing.luck import Luck, Random
from aioparallel.testing.rules import CheckFailed, expect, follow

__all__ = ["check_queue"]

Make: TypeAlias = Callable[[], Queue]

#: Steps of a walk at random, and how many walks.
STEPS, WALKS = 300, 10
#: A queue that is empty must say so before it was asked this much more often than it was given something.
PATIENCE = 10


def check_queue(queue: str | type[Queue]) -> list[str]:
    """Check that a queue does what `aioparallel.queues.Queue` asks for.

    Args:
        queue: The class, its place (`module:Class`), or the name under which it is installed.

    Returns:
        The rules that it follows, in words.

    Raises:
        CheckFailed: It breaks one; the text says which, and what was seen.
    """
    name = f"queue {queue!r}" if isinstance(queue, str) else f"queue {getattr(queue, '__qualname__', queue)!r}"
    usable = "It is a class derived from aioparallel.queues.Queue, with `_put` and `_pop`, made without arguments."
    try:
        kind = queues.get(queue)
    except PluginError as error:
        raise CheckFailed(name, usable, str(error)) from error
    return [usable, *follow(name, RULES, kind)]


def starts_empty(make: Make) -> None:
    """A new one is empty, and shares nothing with others: `len` is 0, `pop` and `_pop` raise IndexError."""
    other = make()
    _put(other, 3)
    queue = make()
    expect(len(queue) == 0, f"a new queue's length is {len(queue)}")
    for pop in (queue.pop, queue._pop):
        expect(_is_empty(pop), f"{pop.__name__} of a new queue raised no IndexError")
    expect(queue.clear() == [], "clear of a new queue returned something")
    expect(len(other) == 3, "another queue of the same class lost what it held")


def gives_what_it_got(make: Make) -> None:
    """What was put comes out once, the very same object, and nothing else; then it is empty."""
    for count in (1, 2, 3, 100):
        queue = make()
        put = _put(queue, count)
        expect(len(queue) == count, f"after {count} puts its length is {len(queue)}")
        popped = [_pop(queue, f"the {place}. of {count} commands") for place in range(1, count + 1)]
        _same(put, popped)
        expect(_is_empty(queue._pop), f"after {count} puts and as many pops `_pop` raised no IndexError")
        expect(len(queue) == 0, f"its length is {len(queue)} then")


def leaves_commands_alone(make: Make) -> None:
    """It changes nothing of a command, and `_put` returns None."""
    queue = make()
    command = _command("job", priority=3)
    before = _contents(command)
    returned: object = queue._put(command)
    expect(returned is None, f"`_put` returned {returned!r} (is it a coroutine function?)")
    expect(queue._pop() is command, "`_pop` returned something else than what was put")
    expect(_contents(command) == before, f"the command was {before} and is {_contents(command)}")


def comes_to_an_end(make: Make) -> None:
    """When all that waited was cancelled, `_pop` comes to an end: IndexError."""
    queue = make()
    for command in _put(queue, 5):
        queue.cancel(command)
    for _ in range(PATIENCE):
        if _is_empty(queue._pop):
            break
    else:
        expect(False, f"5 commands were put and cancelled, and `_pop` gave {PATIENCE}")


def passes_over_cancelled_ones(make: Make) -> None:
    """Commands that were cancelled while they waited are not given, not counted, and hide none of the others."""
    for cancelled in ((0,), (4,), (1, 2), (0, 2, 4), (0, 1, 2, 3)):
        queue = make()
        put = _put(queue, 5)
        for place in cancelled:
            queue.cancel(put[place])
            queue.cancel(put[place])
        wanted = [command for place, command in enumerate(put) if place not in cancelled]
        expect(len(queue) == len(wanted), f"with {len(wanted)} of 5 left its length is {len(queue)}")
        _same(wanted, [_pop(queue, f"one of {len(wanted)} that were not cancelled") for _ in wanted])
        expect(_is_empty(queue.pop), "it gave a command that had been cancelled")


def clears_in_order(make: Make) -> None:
    """`clear` returns what waits in the order in which it would have come out."""
    cleared, popped = make(), make()
    for queue in (cleared, popped):
        _put(queue, 12)
    order = [_pop(popped, "what was put").label for _ in range(12)]
    found = [command.label for command in cleared.clear()]
    expect(found == order, f"pop gives {_text(order)}, and clear {_text(found)}")
    expect(len(cleared) == 0, f"after clear its length is {len(cleared)}")


def looks_the_same_after_a_look(make: Make) -> None:
    """What was taken out by `clear` and put back comes out as if nothing had been; so does what is put later."""
    touched, untouched = make(), make()
    for queue in (touched, untouched):
        _put(queue, 8)
        first = _pop(queue, "the first of 8")
        if queue is touched:
            queue.put_back([first, *queue.clear()])
            queue.put_back(queue.clear())
            expect(len(queue) == 8, f"8 commands were put back, and its length is {len(queue)}")
            first = _pop(queue, "the first of 8 that were put back")
        _put(queue, 4, start=8)
        queue.put(first)
    found, order = ([command.label for command in queue.clear()] for queue in (touched, untouched))
    expect(found == order, f"without the look {_text(order)}, with it {_text(found)}")


def keeps_nothing(make: Make) -> None:
    """It holds on to nothing that it has given, nor to what was cancelled once it is empty."""
    queue = make()
    put = _put(queue, 20)
    left = [weakref.ref(command.payload) for command in put]
    for command in put[::4]:
        queue.cancel(command)
    while len(queue):
        _pop(queue, "what was not cancelled")
    expect(_is_empty(queue.pop), "it gave more than it had")
    put.clear()
    del command
    held = sum(reference() is not None for reference in left)
    expect(not held, f"of 20 commands that are gone it still holds {held}")


def follows_from_what_was_done(make: Make) -> None:
    """What comes out follows from what was put and taken alone: two queues that were fed the same give the same."""
    for seed in range(WALKS):
        walks = [_walk(make(), Luck(seed).stream("queue")) for _ in range(2)]
        expect(
            walks[0] == walks[1],
            f"in the same {STEPS} steps, the one gave {_text(walks[0])}, the other {_text(walks[1])}",
        )


RULES = (
    starts_empty,
    gives_what_it_got,
    leaves_commands_alone,
    comes_to_an_end,
    passes_over_cancelled_ones,
    clears_in_order,
    looks_the_same_after_a_look,
    keeps_nothing,
    follows_from_what_was_done,
)


class _Payload:
    """Something that can be seen to go."""


def _command(name: str, priority: int) -> Command:
    return Command(_Payload(), f"client {priority}", _nothing, label=name.encode(), priority=priority)


def _nothing(command: Command, result: Any) -> None:
    """Nobody waits for these."""


def _put(queue: Queue, count: int, start: int = 0) -> list[Command]:
    """Put commands of a few priorities and clients."""
    commands = [_command(f"job {number}", priority=number * 7 % 3) for number in range(start, start + count)]
    for command in commands:
        queue.put(command)
    return commands


def _pop(queue: Queue, what: str) -> Command:
    try:
        command = queue.pop()
    except IndexError:
        expect(False, f"it has lost {what}: `pop` raised IndexError")
        raise
    expect(isinstance(command, Command), f"it gave {command!r}, which is no command")
    return command


def _is_empty(pop: Callable[[], Command]) -> bool:
    try:
        pop()
    except IndexError:
        return True
    return False


def _same(put: list[Command], popped: list[Command]) -> None:
    for command in put:
        times = sum(command is other for other in popped)
        expect(times == 1, f"of {len(put)} commands, {command.label.decode()!r} came out {times} times")


def _contents(command: Command) -> dict[str, Any]:
    return {name: getattr(command, name) for name in Command.__slots__}


def _text(labels: list[bytes]) -> str:
    shown = b", ".join(labels[:12]).decode()
    return shown + (", …" if len(labels) > 12 else "")


def _walk(queue: Queue, chance: Random) -> list[bytes]:
    """Do things at random, and check the count and what comes out; return what came out, in order."""
    waiting: list[Command] = []
    given: list[bytes] = []
    for number in range(STEPS):
        step = chance.choice(
            ("put", "put", "put", "pop", "pop", "cancel", "look", "clear" if number % 50 == 0 else "put")
        )
        if step == "put":
            waiting.append(_command(f"job {number}", chance.randrange(3)))
            queue.put(waiting[-1])
        elif step == "pop" and waiting:
            given.append(_taken(_pop(queue, f"one of {len(waiting)} that wait"), waiting))
        elif step == "cancel" and waiting:
            queue.cancel(waiting.pop(chance.randrange(len(waiting))))
        elif step == "look":
            queue.put_back(queue.clear())
        elif step == "clear":
            given += [_taken(command, waiting) for command in queue.clear()]
        expect(len(queue) == len(waiting), f"after {number + 1} steps its length is {len(queue)}, not {len(waiting)}")
    return given


def _taken(command: Command, waiting: list[Command]) -> bytes:
    expect(any(command is other for other in waiting), f"it gave {command!r}, which does not wait any more")
    waiting.remove(command)
    return command.label
