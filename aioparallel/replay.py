"""Set-up kept at the controller: recorded once, replayed on every engine that joins or restarts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aioparallel.errors import EngineDied, EngineLost, OperationError, ParallelError, from_plain
from aioparallel.events import Monitor, SetUpFailed
from aioparallel.queues import Command
from aioparallel.results import outputs
from aioparallel.wire import Frame, Status

if TYPE_CHECKING:
    from aioparallel.capability import Grant
    from aioparallel.engines import Engine

__all__ = ["MOST_BYTES", "MOST_STEPS", "Recording", "Step"]

logger = logging.getLogger(__name__)

#: Steps that are kept at most, and bytes of all of them together.
MOST_STEPS, MOST_BYTES = 1000, 2**26
#: A step in which an engine's kernel died so often in a row is left out there.
STRIKES = 2
#: Characters of an engine's trouble.
WORDS = 500


class Step:
    """One thing that engines do first.

    Attributes:
        frame: The call that recorded it; its payload is opaque here.
        label: What a person reads of it.
        reach: The engines that whoever recorded it may reach; None: all.
        asked: The engines that do it for the first time, because they were there when it was recorded.
        deaths: How often in a row an engine's kernel died in it.
    """

    __slots__ = ("asked", "deaths", "frame", "label", "reach")

    def __init__(self, frame: Frame, label: bytes, reach: frozenset[int] | None, asked: set[int]) -> None:
        self.frame = frame
        self.label = label
        self.reach = reach
        self.asked = asked
        self.deaths: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Step {self.name!r} of {self.frame.size} bytes>"

    @property
    def name(self) -> str:
        """What a person reads of it."""
        return self.label.decode("utf-8", "replace")


class _Replay(Command):
    """What one engine does of a step, when it is not the first time."""

    __slots__ = ("engine", "step")

    def __init__(self, recording: Recording, step: Step, engine: Engine) -> None:
        super().__init__(step.frame, None, recording.done, label=b"on_join: " + step.label, exclusive=True)
        self.engine = engine
        self.step = step


class Recording:
    """The steps, in the order in which they were recorded.

    A step is kept from the moment it is recorded. If it fails where it is done for the first time, its caller is told,
    and it is kept no more. If it fails where it is replayed, the engine goes on without it; that is an event, and a
    trouble of the engine.

    Args:
        monitor: Who is told of failures.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._steps: list[Step] = []

    def __repr__(self) -> str:
        return f"<Recording of {self._steps}>"

    def __len__(self) -> int:
        return len(self._steps)

    def labels(self) -> list[str]:
        """Return what a person reads of the steps."""
        return [step.name for step in self._steps]

    def record(self, frame: Frame, label: bytes, grant: Grant, engines: Mapping[int, Any]) -> Step:
        """Keep a step that the `engines` are about to do.

        Raises:
            OperationError: There are too many, or they are too large.
        """
        size = sum(step.frame.size for step in self._steps)
        if len(self._steps) >= MOST_STEPS or size + frame.size > MOST_BYTES:
            raise OperationError(
                f"on_join keeps at most {MOST_STEPS:,} steps of {MOST_BYTES:,} bytes together; it has "
                f"{len(self._steps):,} of {size:,}, and this one is of {frame.size:,}. Have engines read what is large "
                "from a file, or begin again with on_join.clear()"
            )
        step = Step(frame, label, grant.engines, set(engines))
        self._steps.append(step)
        return step

    def drop(self, step: Step) -> None:
        """Keep a step no more; it may be gone already."""
        if step in self._steps:
            self._steps.remove(step)

    def clear(self, grant: Grant) -> int:
        """Drop the steps that reach no further than `grant`; return how many."""
        mine = grant.engines
        kept = [step for step in self._steps if mine is not None and (step.reach is None or not step.reach <= mine)]
        cleared = len(self._steps) - len(kept)
        self._steps = kept
        return cleared

    def replay(self, engine: Engine) -> None:
        """Have a fresh kernel do all steps before everything else."""
        for step in self._steps:
            if (step.reach is not None and engine.id not in step.reach) or engine.id in step.asked:
                continue  # out of reach; or its first time is still to come, where it waits
            if step.deaths.get(engine.id, 0) >= STRIKES:
                self._failed(engine, step, "left out here: the kernel died in it again and again")
            else:
                engine.put_first(_Replay(self, step, engine))

    def done(self, replay: Any, result: Frame | ParallelError) -> None:
        """Take what an engine answers to a replay."""
        engine, step = replay.engine, replay.step
        error = from_plain(result.json()) if isinstance(result, Frame) and result.code == Status.FAULT else result
        if isinstance(error, EngineDied):
            # Its next kernel begins from the first step again. With its host gone there will be none.
            if error.running and not isinstance(error, EngineLost):
                step.deaths[engine.id] = step.deaths.get(engine.id, 0) + 1
                self._failed(engine, step, f"the kernel died: {error.reason}")
            return
        step.deaths.pop(engine.id, None)
        if isinstance(error, ParallelError):
            self._failed(engine, step, str(error))
        elif error.code in (Status.ERROR, Status.REJECTED):
            # The error itself is packed, and nobody unpacks here: a step also says on stderr what it raises.
            said = outputs(error)[3].strip().splitlines()
            self._failed(engine, step, said[-1] if said else "it raised an error")

    def engine_left(self, engine: Engine) -> None:
        """Forget an engine: its id will be another's."""
        for step in self._steps:
            step.deaths.pop(engine.id, None)
            step.asked.discard(engine.id)

    def _failed(self, engine: Engine, step: Step, text: str) -> None:
        logger.warning("engine %d: on_join step %r failed: %s", engine.id, step.name, text)
        trouble = f"on_join step {step.name!r} failed: {text}"
        engine.trouble = f"{engine.trouble}; {trouble}"[:WORDS] if engine.trouble else trouble[:WORDS]
        self._monitor.publish(SetUpFailed(engine.id, step.name, text))
