"""Log records of engines at a client: as records, in order, before the result, bounded, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from model import connect, model_cluster, settle

import aioparallel
from aioparallel import client
from aioparallel.errors import InvalidEngineID, QueueCleared
from aioparallel.wire import HostCall, Kind, News, encode


class Kept(logging.Handler):
    """A user's own handler, which keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self, engine: int) -> list[str]:
        return [record.getMessage() for record in self.records if record.__dict__.get("engine") == engine]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """What the client's logger `engines` is given, and those below it."""
    logger = logging.getLogger("engines")
    logger.propagate = False
    kept = Kept()
    logger.addHandler(kept)
    yield kept
    logger.removeHandler(kept)
    logger.propagate = True


# With model engines: their loggers are this program's, so what is sent is played


def played(
    host: Any, mec: Any, text: str, count: int, *, engine: int = 0, request: Any = None, session: int = 0
) -> None:
    number = max(mec.channel.forwardings, default=0) if request is None else request
    record = {"name": "engines.a", "levelno": 20, "levelname": "INFO", "msg": text}
    header = json.dumps({"request": number, "count": count, "record": record}).encode()
    to = session or int(mec.channel.session, 16)
    host.connection.send(encode(Kind.NOTICE, to, code=News.RECORD, engine=engine, header=header))


def test_records_come_to_who_asked_and_gaps_are_told(kept: Kept) -> None:
    async def main() -> None:
        async with (
            model_cluster(2) as (controller, host),
            connect(controller) as mec,
            connect(controller) as other,
        ):
            with mec.forward_logging("INFO", "engines.b"):
                await settle()
                logging.getLogger("engines.b").handlers.clear()  # a client's logger is not also the engines', else
                played(host, mec, "first", 1)
                played(host, mec, "of the other", 1, engine=1)
                played(host, mec, "third", 3)
                played(host, mec, "fresh", 1)
                played(host, other, "nobody's", 1, request=10**6)
                await settle()
            assert kept.texts(1) == ["of the other"]
            texts = kept.texts(0)
            assert texts[:1] + texts[2:] == ["first", "third", "fresh"]
            assert texts[1].startswith("engine 0: 1 log records were left out")
            assert host.told == []

    asyncio.run(main())


def test_a_client_that_is_gone_is_forgotten_at_the_engine() -> None:
    async def main() -> None:
        async with model_cluster(2) as (controller, host):
            async with connect(controller) as mec:
                session = int(mec.channel.session, 16)
                played(host, mec, "heard", 1, request=5)
                await settle()
                assert host.told == []
            await settle()
            played(host, mec, "late", 2, engine=1, request=5)
            await settle()
            assert host.told == [(HostCall.FORGET, 1, session)]

    asyncio.run(main())


def test_engines_that_come_later_or_restart_are_asked_too() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            assert await mec.get_ids() == [0]
            forwarding = mec.forward_logging("INFO", "engines.c")
            other = mec.forward_logging("INFO", "engines.d", targets=0)
            await settle()
            host.step()
            await settle()
            host.step()
            await asyncio.gather(forwarding.installed, other.installed)
            await host.join()
            await settle()
            assert [frame.engine for frame in host.waiting] == [1]
            logging.getLogger("engines.c").handlers.clear()  # as with the process in which they were
            host.rise(0)
            await settle()
            assert sorted(frame.engine for frame in host.waiting) == [0, 1]
            host.step()
            host.step()
            await settle()
            assert [frame.engine for frame in host.waiting] == [0]
            forwarding.close()
            other.close()
            for _ in range(9):
                await settle()
                if host.waiting:
                    host.step()
            await host.join()
            await settle()
            assert host.waiting == []
            assert mec.channel.forwardings == {}
            assert logging.getLogger("engines.c").handlers == []

    asyncio.run(main())


def test_a_request_stays_in_a_queue_that_is_cleared() -> None:
    async def main() -> None:
        async with model_cluster(1, eager=False) as (controller, host), connect(controller) as mec:
            assert await mec.get_ids() == [0]
            failing = mec.execute("1/0", targets=0)
            behind = mec.execute("2", targets=0)
            forwarding = mec.forward_logging("INFO", "engines.e")
            await settle()
            host.step()
            await settle()
            with pytest.raises(ZeroDivisionError):
                await failing
            with pytest.raises(QueueCleared):
                await behind
            assert await mec.clear_queue() == [0]
            host.step()
            await forwarding.installed
            assert [type(handler).__name__ for handler in logging.getLogger("engines.e").handlers] == ["_Forwarder"]
            forwarding.close()
            assert repr(forwarding) == "<LogForwarding of 'engines.e', closed>"
            await settle()
            host.step()
            await settle()
            assert logging.getLogger("engines.e").handlers == []

    asyncio.run(main())


def test_a_handler_that_raises_is_told_of_and_harms_nobody(kept: Kept) -> None:
    async def main() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        async with model_cluster(1) as (controller, host), connect(controller) as mec:
            kept.addFilter(lambda record: 1 // 0 > 0)
            with mec.forward_logging("INFO", "engines.f"):
                played(host, mec, "first", 1)
                await settle()
                assert await mec.get_ids() == [0]
            await settle()
        assert [str(context["exception"]) for context in reported] == ["integer division or modulo by zero"]
        assert "log record of engine 0" in reported[0]["message"]

    asyncio.run(main())


def test_bad_requests_are_refused_in_words_and_leave_nothing() -> None:
    async def main() -> None:
        async with model_cluster(1) as (controller, _), connect(controller) as mec:
            with pytest.raises(ValueError, match="not 'LOUD'"):
                mec.forward_logging("LOUD")
            with pytest.raises(TypeError, match="logger is the name of one, not 5"):
                mec.forward_logging("INFO", 5)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="block=True is for the blocking face"):
                mec.forward_logging("INFO", "engines.g", block=True)
            with pytest.raises(ValueError, match="targets are"):
                mec.forward_logging("INFO", "engines.g", targets="none")
            nowhere = mec.forward_logging("INFO", "engines.g", targets=9)
            with pytest.raises(InvalidEngineID):
                await nowhere.installed
            nowhere.close()
            await settle()
            assert (mec.channel.forwardings, mec.channel.on_engines) == ({}, [])
        nowhere.close()

    asyncio.run(main())


# Real engines


LOG = "import logging; log = logging.getLogger('engines.user'); "


def test_records_are_here_before_the_result(mec: client.MultiEngineClient, kept: Kept) -> None:
    with mec.forward_logging(logging.DEBUG):
        for number in range(60):
            mec.execute(f"{LOG}log.debug('%d of %d', {number}, id)")
            for engine in (0, 1):
                assert kept.texts(engine)[-1] == f"{number} of {engine}"
        assert len(kept.records) == 120
        with contextlib.suppress(ZeroDivisionError):
            mec.execute(
                f"{LOG}\ntry: 1/0\nexcept Exception: log.exception('oops', extra=dict(user='me'))\n1/0", targets=0
            )
    record = kept.records[-1]
    assert (record.name, record.levelname, record.engine, record.user) == ("engines.user", "ERROR", 0, "me")  # type: ignore[attr-defined]
    assert record.exc_text is not None
    assert record.exc_text.endswith("ZeroDivisionError: division by zero")
    assert mec.execute("logging.getLogger().handlers, logging.getLogger().level", targets=0)[0].value == "([], 30)"
    mec.execute(f"{LOG}log.error('unheard')")
    assert kept.records[-1] is record


def test_records_of_threads_come_without_a_command(mec: client.MultiEngineClient, kept: Kept) -> None:
    with mec.forward_logging("INFO", "engines"):
        mec.execute(f"{LOG}import threading; threading.Timer(0.05, log.info, ['later']).start()", targets=0)
        # Nothing is asked of the engine meanwhile: this client reads what comes by itself.
        with _deadline():
            while not kept.records:
                pass
        assert kept.texts(0) == ["later"]


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raise rather than hang."""
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def test_a_flood_is_bounded_and_what_is_missing_is_told(mec: client.MultiEngineClient, kept: Kept) -> None:
    with mec.forward_logging("INFO", "engines"):
        mec.execute(f"{LOG}\nfor i in range(20_000): log.info('%d', i)", targets=0)
        texts = kept.texts(0)
        missing = [int(text.split()[2].replace(",", "")) for text in texts if "left out" in text]
        assert len(texts) - len(missing) + sum(missing) == 20_000
        assert texts[-1] == "19999"
        numbers = [int(text) for text in texts if "left out" not in text]
        assert numbers == sorted(numbers)


def test_children_of_user_code_send_nothing(mec: client.MultiEngineClient, kept: Kept) -> None:
    code = f"""{LOG}
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
pid = os.fork()
if not pid:
    log.error("child")
    os._exit(5)
_, status = os.waitpid(pid, 0)
log.info("parent")
os.waitstatus_to_exitcode(status)
"""
    with mec.forward_logging("INFO", "engines"):
        for _ in range(10):
            assert mec.execute(code, targets=0)[0].value == "5"
    assert kept.texts(0) == ["parent"] * 10


def test_an_interrupt_in_the_middle_of_logging_leaves_it_whole(mec: client.MultiEngineClient, kept: Kept) -> None:
    with mec.forward_logging("INFO", "engines"):
        for number in range(10):
            count = len(kept.records)
            pending = mec.execute(f"{LOG}\nwhile True: log.info('x')", targets=0, block=False)
            with _deadline():
                while len(kept.records) == count:
                    pass
            mec.interrupt(targets=0)
            assert "KeyboardInterrupt" in str(pending.exception(30))
            mec.execute(f"{LOG}log.info('after %d', {number})", targets=0)
            assert kept.texts(0)[-1] == f"after {number}"


def test_a_restarted_kernel_is_asked_again(mec: client.MultiEngineClient, kept: Kept) -> None:
    with mec.forward_logging("INFO", "engines"):
        mec.restart(targets=0)
        with _deadline():
            while not kept.records:
                mec.execute(f"{LOG}log.info('again')", targets=0)
        assert set(kept.texts(0)) == {"again"}


def test_when_the_client_is_gone_the_engine_stops(cluster: client.Cluster, mec: client.MultiEngineClient) -> None:
    count = "len(logging.getLogger('engines.user').handlers), logging.getLogger('engines.user').level"
    with client.MultiEngineClient(cluster.capability("multiengine")) as other:
        other.forward_logging("INFO", "engines.user")
        assert mec.execute(f"{LOG}{count}", targets=0)[0].value == "(1, 20)"
    with _deadline():
        while mec.execute(f"{LOG}log.info('to nobody'); {count}", targets=0)[0].value != "(0, 0)":
            pass


def test_the_asyncio_face(cluster: client.Cluster, kept: Kept) -> None:
    async def main() -> None:
        async with aioparallel.MultiEngineClient(cluster.capability("multiengine")) as mec:
            assert await mec.get_ids() == [0, 1]
            with mec[0].forward_logging("INFO", "engines") as forwarding:
                await forwarding.installed
                await mec.execute(f"{LOG}log.info('from %d', id)")
            assert (kept.texts(0), kept.texts(1)) == (["from 0"], [])

    asyncio.run(main())


def test_nothing_is_loaded_before_somebody_asks() -> None:
    with client.Cluster(n=1) as fresh, fresh.multiengine() as mec:
        loaded = "import sys; 'aioparallel.records' in sys.modules, 'logging' in sys.modules"
        assert mec.execute(loaded)[0].value == "(False, False)"
        assert os.getpid() not in mec.apply(os.getpid)
