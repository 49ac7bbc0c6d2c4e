"""Whose turn it is: order, turns of clients, books that are closed, and tasks that are removed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aioparallel.lines import KINDS, Book
from aioparallel.needs import Needs
from aioparallel.waiting import CLIENTS, STALE, Waiting

GPU = Needs(resources=(("gpu", 1.0),))
HERE = Needs(engines=frozenset({3}))


def add(waiting: Waiting[str], names: str, client: Any = "A", **more: Any) -> None:
    given = {"label": b"", "priority": 0, "needs": None, "again": False} | more
    for name in names:
        waiting.add(name, client, given["label"], given["priority"], given["needs"], given["again"])


def take(waiting: Waiting[str], cost: int = 0) -> str | None:
    line = waiting.first()
    if line is None:
        return None
    task, kind = waiting.take(line)
    waiting.charge(kind.line.client, cost)
    return task


def drain(waiting: Waiting[str], cost: int = 0) -> str:
    taken = ""
    while (task := take(waiting, cost)) is not None:
        taken += task
    assert len(waiting) == 0
    return taken


# Order


def test_order_of_submission_and_the_reverse() -> None:
    for lifo, expected in ((False, "abcdef"), (True, "fedcba")):
        waiting: Waiting[str] = Waiting(lifo=lifo)
        add(waiting, "abcdef")
        assert drain(waiting) == expected


def test_priority_goes_over_all_clients_and_turns() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "ab", "A")
    add(waiting, "cd", "B", priority=-1)
    add(waiting, "ef", "B", priority=2, needs=GPU)
    assert drain(waiting, cost=10**9) == "efabcd"


def test_tasks_that_run_again_go_first_in_their_order() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "abc")
    add(waiting, "xy", again=True)
    add(waiting, "z", again=True, needs=HERE)
    add(waiting, "p", priority=1)
    assert drain(waiting) == "pxyzabc"


def test_one_clients_order_holds_between_books() -> None:
    for lifo in (False, True):
        waiting: Waiting[str] = Waiting(lifo=lifo)
        for name, needs in zip("abcdefgh", (None, None, GPU, None, HERE, GPU, GPU, None), strict=True):
            add(waiting, name, needs=needs)
        assert drain(waiting) == ("hgfedcba" if lifo else "abcdefgh")
        assert waiting.books == {}
        assert list(waiting.open) == [waiting.anywhere]


def test_closed_book_is_passed_over_and_keeps_its_place() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "a", needs=GPU)
    add(waiting, "bc")
    book = waiting.books[GPU]
    waiting.close(book)
    assert take(waiting) == "b"
    waiting.reopen(book)
    waiting.reopen(book)
    assert drain(waiting) == "ac"


def test_latest_first_between_books_also_after_some_were_taken() -> None:
    waiting: Waiting[str] = Waiting(lifo=True)
    add(waiting, "a")
    add(waiting, "b", needs=GPU)
    add(waiting, "c")
    assert take(waiting) == "c"
    add(waiting, "d")
    assert drain(waiting) == "dba"


def test_order_between_books_holds_after_a_line_was_looked_through() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "a")
    add(waiting, "b", needs=GPU)
    add(waiting, "c")
    waiting.remove("c")
    add(waiting, "c")
    assert drain(waiting) == "abc"


def test_book_that_is_done_with_is_not_opened_again() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "a", needs=GPU)
    book = waiting.books[GPU]
    waiting.close(book)
    waiting.remove("a")
    waiting.reopen(book)
    assert list(waiting.open) == [waiting.anywhere]


# Turns


def test_one_task_does_not_wait_for_another_clients_hundred_thousand() -> None:
    waiting: Waiting[Any] = Waiting()
    for number in range(100_000):
        waiting.add(number, "A", b"", 0, None)
    for _ in range(50_000):
        take(waiting, 1_000_000)
    waiting.add("one", "B", b"", 0, None)
    assert "one" in {take(waiting, 1_000_000) for _ in range(2)}


def test_clients_get_the_same_time_whatever_their_tasks_take() -> None:
    waiting: Waiting[Any] = Waiting()
    costs = {"A": 10_000_000, "B": 1_000_000, "C": 3_000_000}
    for client in costs:
        for number in range(20_000):
            waiting.add((client, number), client, b"", 0, None)
    time: Counter[str] = Counter()
    for _ in range(10_000):
        client = waiting.first().key  # type: ignore[union-attr]
        take(waiting, costs[client])  # type: ignore[arg-type]
        time[client] += costs[client]  # type: ignore[index]
        assert max(time.values()) - min(time[name] for name in costs) <= 2 * max(costs.values())


def test_credit_pays_for_what_comes_next_and_never_all_of_it() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "a")
    client = waiting.clients["A"]
    waiting.charge(client, 100)
    waiting.charge(client, -30)
    waiting.charge(client, 0)
    assert (client.given, client.credit) == (100, 30)
    waiting.charge(client, 10)
    assert (client.given, client.credit) == (101, 21)
    waiting.charge(client, 100)
    assert (client.given, client.credit) == (180, 0)
    assert repr(client) == "<Client 1, given 0.000000 s>"


def test_who_had_nothing_waiting_is_owed_nothing() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "a", "B")
    assert take(waiting, 5) == "a"
    add(waiting, "bcdefghi", "A")
    for _ in range(4):
        take(waiting, 1000)
    # B comes back and begins where A is now, not 4,000 before.
    add(waiting, "pqrstuvw", "B")
    assert [take(waiting, 1000) in set("pqrstuvw") for _ in range(8)].count(True) == 4


def test_after_everyone_was_served_the_past_is_forgotten() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "a", "A")
    take(waiting, 10**12)
    add(waiting, "bcde", "B")
    add(waiting, "fghi", "A")
    assert sorted(drain(waiting, 1000)[:4])[:2] == ["b", "c"]


# Pauses


def test_paused_clients_let_others_pass() -> None:
    waiting: Waiting[str] = Waiting()
    waiting.pause("A")
    add(waiting, "ab", "A")
    add(waiting, "c", "A", needs=GPU, priority=7)
    add(waiting, "de", "B")
    assert [take(waiting) for _ in range(3)] == ["d", "e", None]
    assert len(waiting) == 3
    waiting.resume("A")
    waiting.resume("A")
    waiting.resume("never seen")
    assert drain(waiting) == "cab"


def test_pausing_earns_no_turns() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "abcdefgh", "A")
    add(waiting, "pqrstuvw", "B")
    waiting.pause("A")
    for _ in range(4):
        assert take(waiting, 1000) in set("pqrstuvw")
    waiting.resume("A")
    assert len({take(waiting, 1000) for _ in range(4)} & set("abcd")) == 2


def test_a_newcomer_does_not_begin_where_a_paused_one_stopped() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "ab", "A")
    waiting.pause("A")
    add(waiting, "pqrstu", "B")
    for _ in range(3):
        take(waiting, 1000)
    add(waiting, "xyz", "C")
    assert len({take(waiting, 1000) for _ in range(4)} & set("xyz")) == 2


def test_forgotten_client_keeps_what_waits() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "ab", "A")
    waiting.pause("A")
    waiting.forget("A")
    assert drain(waiting) == "ab"
    waiting.forget("A")
    waiting.forget("A")
    assert waiting.clients == {}
    assert waiting.anywhere.levels == {}


def test_clients_without_tasks_are_bounded() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "k", "keeps")
    for number in range(10 * CLIENTS):
        add(waiting, "t", number)
        assert waiting.remove("t")
        assert len(waiting.clients) <= CLIENTS + 2
    assert drain(waiting) == "k"
    assert repr(waiting).startswith("<Waiting of 0 of ")


# Removal


def test_removed_tasks_are_let_go_of_before_their_turn() -> None:
    waiting: Waiting[int] = Waiting()
    for number in range(1000):
        waiting.add(number, "A", b"", 0, None)
    line = waiting.where[0].line
    for number in range(999):
        assert waiting.remove(number) is not None
        assert len(line.tasks) <= 2 * (999 - number) + 2 * STALE + 4
    assert waiting.remove(5) is None
    assert len(line) == 1
    assert "of 1 of" in repr(line)
    assert take(waiting) == 999  # type: ignore[arg-type]


def test_a_task_that_comes_back_to_its_line_stands_there_once() -> None:
    waiting: Waiting[str] = Waiting()
    add(waiting, "abcdef")
    waiting.remove("b")
    add(waiting, "b")
    assert drain(waiting) == "acdefb"


def test_kinds_are_bounded() -> None:
    waiting: Waiting[int] = Waiting()
    for number in range(3 * KINDS):
        waiting.add(number, "A", b"%d" % number, 0, None)
    line = waiting.where[0].line
    assert len(line.kinds) <= KINDS
    assert waiting.where[0].label == b"0"


def test_a_book_says_what_its_tasks_need() -> None:
    assert repr(Book(GPU)).startswith("<Book of 0 tasks, Needs(")


# Whatever happens


class AnySequence(RuleBasedStateMachine):
    """Against a list of everything that waits, looked through from end to end."""

    @initialize(lifo=st.booleans())
    def begin(self, lifo: bool) -> None:
        self.waiting: Waiting[int] = Waiting(lifo=lifo)
        self.lifo = lifo
        self.tasks: dict[int, tuple[str, int, Needs | None, bool, int]] = {}
        self.gone: list[int] = []
        self.count = self.arrivals = 0
        self.closed: set[Needs] = set()
        self.paused: set[str] = set()

    def put(self, task: int, data: st.DataObject) -> None:
        # Mostly alike, so that the order among them has to be kept.
        client, priority = data.draw(st.sampled_from("AAABC")), data.draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
        needs, again = (
            data.draw(st.sampled_from([None, None, GPU, HERE])),
            data.draw(st.sampled_from([False] * 4 + [True])),
        )
        self.waiting.add(task, client, b"", priority, needs, again)
        self.arrivals += 1
        self.tasks[task] = client, priority, needs, again, self.arrivals

    @rule(data=st.data(), times=st.integers(1, 4))
    def new_tasks(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            self.count += 1
            self.put(self.count, data)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def task_again(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.gone))
        self.gone.remove(task)
        self.put(task, data)

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        task = data.draw(st.integers(1, self.count))
        assert (self.waiting.remove(task) is not None) == (task in self.tasks)
        if self.tasks.pop(task, None):
            self.gone.append(task)
        self.closed &= set(self.waiting.books)

    @rule(client=st.sampled_from("ABC"))
    def pause_or_resume(self, client: str) -> None:
        (self.waiting.resume if client in self.paused else self.waiting.pause)(client)
        self.paused ^= {client}

    @rule(client=st.sampled_from("ABC"))
    def forget(self, client: str) -> None:
        self.waiting.forget(client)
        self.paused.discard(client)

    @rule(needs=st.sampled_from([GPU, HERE]))
    def close_or_open(self, needs: Needs) -> None:
        book = self.waiting.books.get(needs)
        if book is not None:
            (self.waiting.reopen if book.closed else self.waiting.close)(book)
            self.closed ^= {needs}

    @rule(costs=st.lists(st.integers(-5, 20), max_size=6))
    def take(self, costs: list[int]) -> None:
        for cost in costs:
            line = self.waiting.first()
            ready = {
                task: (-priority, *self.turn(client), not again, -arrival if self.lifo else arrival)
                for task, (client, priority, needs, again, arrival) in self.tasks.items()
                if client not in self.paused and needs not in self.closed
            }
            assert (line is None) == (not ready)
            if line is None:
                return
            task, kind = self.waiting.take(line)
            assert task == min(ready, key=ready.__getitem__)
            del self.tasks[task]
            self.gone.append(task)
            self.waiting.charge(kind.line.client, cost)
            self.closed &= set(self.waiting.books)

    def turn(self, client: str) -> tuple[int, int]:
        known = self.waiting.clients[client]
        return known.given, known.number

    @invariant()
    def nothing_is_lost_and_nothing_is_kept(self) -> None:
        if not hasattr(self, "waiting"):
            return
        assert set(self.waiting.where) == set(self.tasks)
        lines = [line for book in (self.waiting.anywhere, *self.waiting.books.values()) for line in book.lines()]
        live = [task for line in lines for task in line.tasks if task not in line.stale]
        assert sorted(live) == sorted(self.tasks)
        for line in lines:
            assert line.tasks or line.usual
            assert sum(length for _, length in list(line.runs)[:-1]) == line.closed
            assert len(line.stale) <= STALE + len(line.tasks) // 2 + 1
        assert set(self.waiting.open) == {self.waiting.anywhere} | {
            book for needs, book in self.waiting.books.items() if needs not in self.closed
        }


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 50)), max_size=60))
def test_neither_client_gets_ahead_by_more_than_a_task(tasks: list[tuple[str, int]]) -> None:
    waiting: Waiting[int] = Waiting()
    for number, (client, _) in enumerate(tasks):
        waiting.add(number, client, b"", 0, None)
    time = {"A": 0, "B": 0}
    left = Counter(client for client, _ in tasks)
    while (line := waiting.first()) is not None and min(left["A"], left["B"]):
        task, kind = waiting.take(line)
        client, cost = tasks[task]
        waiting.charge(kind.line.client, cost)
        time[client] += cost
        left[client] -= 1
        assert abs(time["A"] - time["B"]) <= 50
