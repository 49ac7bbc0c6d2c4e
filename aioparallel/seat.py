"""One engine's place at its host: its kernel, and the next one when that has died."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from aioparallel.deaths import Deaths
from aioparallel.errors import OperationError, ParallelError
from aioparallel.inflight import InFlight, InFlightHost
from aioparallel.kernels import Kernel, MakeKernel
from aioparallel.process import describe_exit
from aioparallel.wire import Frame, KernelCall, Kind, Status, encode

__all__ = ["Answer", "Seat", "SeatHost"]

logger = logging.getLogger(__name__)


class Answer(Protocol):
    """Told how a restart or a stop went."""

    def __call__(self, value: Any, error: ParallelError | None = None) -> None:
        """Take the outcome."""
        ...


class SeatHost(InFlightHost, Protocol):
    """What a seat asks of its host."""

    def notify(self, event: str, seat: Seat, **about: Any) -> None:
        """Tell the controller what happened to this engine."""
        ...

    def seat_ready(self, seat: Seat) -> None:
        """A kernel is up that has no engine's id yet."""
        ...

    def seat_restarted(self, seat: Seat) -> None:
        """A fresh kernel is up for an engine that the controller knows."""
        ...

    def seat_broken(self, seat: Seat, reason: str, output: str) -> None:
        """The kernels keep dying."""
        ...

    def seat_left(self, seat: Seat) -> None:
        """The engine was told to end, and has."""
        ...


class Seat:
    """One engine's place.

    A kernel goes through: started -> up (it has said so) -> working (the controller knows of it, commands pass). When
    it dies, what it had not answered is answered for (`InFlight`), and a fresh one is started. Commands that the
    controller sent before it knew of the fresh one are returned: it may want others to go first.

    Args:
        number: Which seat of the host this is.
        make: Makes a kernel.
        path: What goes to the front of its `sys.path`.
        host: Who is told.
        grace: Seconds for a command that is to end, after an interrupt, and again after SIGTERM.

    Attributes:
        number: Which seat of the host this is.
        inflight: The commands that its kernel has.
        engine: The id given by the controller, or None before it has joined.
        announced: The pid that the controller knows; 0 before it has been asked for an id.
        python: The version its kernels run.
        state: "starting", "up", "working", "broken" or "closed".
    """

    def __init__(self, number: int, make: MakeKernel, path: Sequence[str], host: SeatHost, *, grace: float) -> None:
        self.number = number
        self.engine: int | None = None
        self.announced = 0
        self.python = ""
        self.pid = 0
        self.state = "starting"
        self._make = make
        self._path = list(path)
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._kernel: Kernel | None = None
        self.inflight = InFlight(host, grace=grace, on_notice=self._noticed, on_unserved=self._unserved)
        self._deaths = Deaths()
        self._reason = ""
        self._why_broken = ""
        self._restarts: list[Answer] = []
        self._stops: list[Answer] = []
        self._restarting = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        name = "new" if self.engine is None else f"engine {self.engine}"
        return f"<Seat {self.number}: {name}, {self.state}, {len(self.inflight)} unanswered>"

    @property
    def wants_to_join(self) -> bool:
        """Whether a kernel is up and the controller has not been asked for an id."""
        return self.state == "up" and self.engine is None and not self.announced

    # The kernel's life

    def start(self) -> None:
        """Start a kernel."""
        self._timer = None
        self.state, self._restarting = "starting", False
        self.inflight.worked = False
        kernel = self._make(self.inflight.receive, self._ended)
        try:
            kernel.start()
        except OSError as error:
            self._dead(f"it can't be started: {error.strerror or error}", "")
            return
        self._kernel = kernel
        self.inflight.begin(kernel)
        self.pid = kernel.pid
        if self._host.reading_paused:
            kernel.pause_reading()

    def become(self, engine: int) -> None:
        """Take the id that the controller gave."""
        self.engine = self.inflight.engine = engine
        if self.state == "up" and self.pid == self.announced:
            self._set_up()
            self._serve(0)
            return
        # The kernel that asked for the id has died meanwhile.
        self._host.notify("kernel_restarting", self)
        if self.state == "up":
            self._report()

    def _noticed(self, frame: Frame) -> None:
        """The kernel has said something: that it is up."""
        if self.state != "starting":
            return
        self.state, self.python = "up", str(frame.json().get("python", ""))
        if self.engine is None:
            self._host.seat_ready(self)
        else:
            self._report()

    def _set_up(self) -> None:
        """Tell the kernel which engine it is."""
        assert self._kernel is not None
        header = json.dumps({"engine": self.engine, "path": self._path}).encode()
        self._kernel.send(encode(Kind.CALL, code=KernelCall.SETUP, header=header))

    def _report(self) -> None:
        """Tell the controller of a fresh kernel."""
        self._set_up()
        self.announced = self.pid
        self._host.seat_restarted(self)

    def acknowledge(self, pid: int, first: int) -> None:
        """The controller knows of the fresh kernel `pid`: commands from `first` on are meant for it."""
        if self.state == "up" and pid == self.pid:
            self._serve(first)

    def _serve(self, first: int) -> None:
        self.state = "working"
        self.inflight.serve(first)
        self._answer_restarts(None)

    def _unserved(self, frame: Frame) -> None:
        """A command has come that no kernel is there for, or that was meant for the one before."""
        if self.state == "broken":
            self.inflight.fault(frame.id, f"its kernels keep dying, {self._why_broken}; restart it to try again", "")
        elif self.state != "closed":
            self._host.send(encode(Kind.RESULT, frame.id, code=Status.RETURNED, engine=frame.engine))

    def _ended(self, returncode: int, output: str) -> None:
        """The kernel has ended, and everything it sent has been passed on."""
        assert self._kernel is not None
        running, latest = self._kernel.running, self._kernel.latest
        began = running in self.inflight
        self.inflight.kernel_gone()
        self._kernel = None
        if self.inflight.is_ending and not self._reason:
            self._restarting, self._reason = True, "restarted to end what it ran"
        reason = self._reason or describe_exit(returncode)
        self._reason = ""
        # Before the answers, so that the controller sends nothing more on their account.
        if self.state != "closed":
            event = "kernel_restarting" if self._restarting else "kernel_died"
            self._host.notify(event, self, reason=reason, output=output)
        self.inflight.fail(running, latest, reason, output)
        if self.state == "closed":
            self._left()
            return
        logger.warning("engine %s: kernel %d %s", self.engine, self.pid, reason)
        if self._restarting:
            self._deaths.forget()
            self.start()
        else:
            self._dead(reason, output, began=began)

    def _dead(self, reason: str, output: str, *, began: bool = False) -> None:
        """Start the next one, soon or never."""
        delay = self._deaths.died(self._loop.time(), worked=self.inflight.worked, began=began)
        if delay is None:
            self._break(reason, output)
            return
        self.state = "starting"
        self._timer = self._loop.call_later(delay, self.start)

    def _break(self, reason: str, output: str) -> None:
        self.state = "broken"
        self._why_broken = reason
        self._host.notify("kernel_broken", self, reason=reason, output=output)
        self._answer_restarts(OperationError(f"engine {self.engine} is broken: its kernels keep dying, {reason}"))
        self._host.seat_broken(self, reason, output)

    def _answer_restarts(self, error: ParallelError | None) -> None:
        restarts, self._restarts = self._restarts, []
        for answer in restarts:
            answer({"pid": self.pid}, error)

    async def aclose(self) -> None:
        """End the kernel and start no other."""
        self.state = "closed"
        self.inflight.serve(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._kernel is not None:
            await self._kernel.aclose()

    # What the controller asks of the kernel as a whole

    def restart(self, answer: Answer) -> None:
        """Have a fresh kernel; `answer` is called when it is there."""
        self._restarts.append(answer)
        if self._kernel is not None:
            if not self._restarting:
                self._restarting, self._reason = True, "restarted on request"
                self._kernel.kill()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._deaths.forget()
        self._host.notify("kernel_restarting", self)
        self.start()

    def stop(self, answer: Answer) -> None:
        """End the engine; `answer` is called when it has ended."""
        self._stops.append(answer)
        if self.state == "closed":
            return
        self.state, self._reason = "closed", "stopped on request"
        self.inflight.serve(None)
        if self._timer is not None:
            self._timer.cancel()
        self._answer_restarts(OperationError(f"engine {self.engine} was stopped"))
        if self._kernel is not None:
            self._kernel.kill()
        else:
            self._left()

    def _left(self) -> None:
        stops, self._stops = self._stops, []
        if stops:
            self._host.seat_left(self)
        for answer in stops:
            answer(None)

    # What the host asks now and then

    def pause_reading(self) -> None:
        """Leave what the kernel says where it is."""
        if self._kernel is not None:
            self._kernel.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._kernel is not None:
            self._kernel.resume_reading()

    def check_output(self) -> bool:
        """Bound what the kernel writes, and tell of it if that is wanted; return whether it has work."""
        if self._kernel is not None:
            self._kernel.check_output()
        self.inflight.tell_output()
        return len(self.inflight) > 0
