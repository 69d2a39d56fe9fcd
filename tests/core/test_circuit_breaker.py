"""When circuits open and close, seen from Python; the transition table itself is tested in Rust."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agentapi._core import Circuit, CircuitBreakers, CircuitRules, Refusal, Ticket

SECOND = 10**9
START = 1000 * SECOND
Outcome = Literal["success", "failure", "neutral"]


def breakers(**rules: Any) -> CircuitBreakers:
    return CircuitBreakers(CircuitRules(jitter_percent=0, **rules), seed=7)


def ask(subject: CircuitBreakers, now: int, key: str = "key") -> Ticket | Refusal:
    return subject.circuit(key, now).allow_at(now)


def call(subject: CircuitBreakers, outcome: Outcome, now: int = START, key: str = "key") -> str | None:
    ticket = ask(subject, now, key)
    assert isinstance(ticket, Ticket)
    return ticket.record_at(outcome, now)


def opened() -> CircuitBreakers:
    subject = breakers()
    assert [call(subject, "failure") for _ in range(5)] == [None] * 4 + ["opened"]
    return subject


def test_the_defaults_are_five_failures_thirty_seconds_two_successes() -> None:
    subject = opened()
    refusal = ask(subject, START)
    assert isinstance(refusal, Refusal)
    assert not refusal.allowed
    assert (refusal.state, refusal.retry_after_ns, refusal.retry_after_s) == ("open", 30 * SECOND, 30)
    later = START + 30 * SECOND
    probe = ask(subject, later)
    assert isinstance(probe, Ticket)
    assert (probe.allowed, probe.is_probe) == (True, True)
    second = ask(subject, later)
    assert isinstance(second, Refusal)
    assert second.state == "half_open"
    assert probe.record_at("success", later) is None
    assert call(subject, "success", later) == "closed"
    assert subject.snapshot("key", later).state == "closed"


def test_the_ticket_of_a_probe_counts_once() -> None:
    subject = opened()
    later = START + 30 * SECOND
    probe = ask(subject, later)
    assert isinstance(probe, Ticket)
    for _ in range(10):
        assert probe.record_at("success", later) is None
    assert call(subject, "success", later) == "closed"


def test_calls_of_a_closed_circuit_share_their_ticket_and_each_tells_once() -> None:
    subject = breakers()
    circuit = subject.circuit("key", START)
    ticket = circuit.allow_at(START)
    assert isinstance(ticket, Ticket)
    assert circuit.allow_at(START) is ticket is circuit.allow()
    for _ in range(3):
        assert ticket.record_at("failure", START) is None
    assert subject.snapshot("key", START).consecutive_failures == 3


def test_a_ticket_from_before_a_change_counts_for_nothing() -> None:
    subject = breakers()
    circuit = subject.circuit("key", START)
    before = circuit.allow_at(START)
    subject.reset("key")
    after = circuit.allow_at(START)
    assert isinstance(before, Ticket)
    assert isinstance(after, Ticket)
    assert after is not before
    assert circuit.allow_at(START) is after
    for _ in range(10):
        assert before.record_at("failure", START) is None
    assert subject.snapshot("key", START).calls == 0
    after.record_at("success", START)
    assert subject.snapshot("key", START).calls == 1


def test_a_circuit_at_hand_is_that_of_its_key() -> None:
    subject = breakers()
    circuit = subject["key"]
    assert subject["key"] is circuit is subject.circuit("key")
    subject.force_open("key")
    assert not circuit.allow()
    assert repr(circuit) == 'Circuit(key="key", state="forced_open")'
    subject.reset("key")
    assert circuit.allow()
    assert circuit.key == "key"


def test_a_key_that_compares_as_it_likes_gets_its_own_circuit() -> None:
    class Alike(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("key")

    subject = breakers()
    subject.force_open("key")
    assert not subject["key"].allow()
    assert subject[Alike("other")].allow()
    assert subject[Alike("other")].key == "other"


def test_circuits_stay_true_when_more_are_asked_for_than_fit() -> None:
    subject = CircuitBreakers(seed=7, capacity=800)
    kept = subject["kept"]
    subject.force_open("forced")
    for number in range(10_000):
        assert subject[f"key {number}"].allow()
    assert len(subject) <= 800
    assert not subject["forced"].allow()
    subject.force_open("kept")
    assert not kept.allow()


def test_an_outcome_is_told_by_name() -> None:
    subject = CircuitBreakers(CircuitRules(consecutive_failures=2))
    circuit = subject["key"]
    for tell, calls, row in (("failure", 1, 1), ("neutral", 1, 1), ("success", 2, 0)):
        assert getattr(circuit.allow(), tell)() is None
        seen = subject.snapshot("key")
        assert (seen.calls, seen.consecutive_failures) == (calls, row)


def test_an_unknown_outcome_spends_no_ticket() -> None:
    subject = breakers()
    ticket = ask(subject, START)
    assert isinstance(ticket, Ticket)
    with pytest.raises(ValueError, match="outcome"):
        ticket.record_at("ok", START)  # type: ignore[arg-type]
    ticket.record_at("failure", START)
    assert subject.snapshot("key", START).failures == 1


def test_operators_force_and_reset() -> None:
    subject = breakers()
    subject.force_open("key", START)
    refusal = ask(subject, START + 3600 * SECOND)
    assert isinstance(refusal, Refusal)
    assert refusal.state == "forced_open"
    subject.reset("key")
    assert ask(subject, START).allowed


def test_shows_what_is_not_closed() -> None:
    subject = opened()
    call(subject, "failure", key="failing")
    subject.force_open("forced", START)
    assert subject.counts() == {"closed": 1, "open": 1, "half_open": 0, "forced_open": 1}
    shown = {circuit.key: circuit for circuit in subject.tripped(START + SECOND)}
    assert {key: circuit.state for key, circuit in shown.items()} == {"key": "open", "forced": "forced_open"}
    assert (shown["key"].retry_after_ns, shown["key"].openings) == (29 * SECOND, 1)
    failing = subject.snapshot("failing", START)
    assert (failing.consecutive_failures, failing.calls, failing.failures, failing.probes) == (1, 1, 1, 0)
    assert repr(failing) == 'CircuitSnapshot(key="failing", state="closed")'
    assert (len(subject), repr(subject)) == (3, "CircuitBreakers(len=3)")


def test_jitter_follows_the_seed() -> None:
    def open_time(seed: int | None) -> int:
        subject = CircuitBreakers(CircuitRules(consecutive_failures=1), seed=seed)
        assert call(subject, "failure") == "opened"
        return subject.snapshot("key", START).retry_after_ns

    assert open_time(1) == open_time(1) != open_time(2)
    drawn = {open_time(None) for _ in range(10)}
    assert len(drawn) > 1
    assert all(30 * SECOND <= time < 33 * SECOND for time in drawn)


def test_without_a_time_the_clock_runs() -> None:
    subject = CircuitBreakers(CircuitRules(consecutive_failures=1, open_ns=3600 * SECOND))
    ticket = subject["key"].allow()
    assert isinstance(ticket, Ticket)
    assert ticket.failure() == "opened"
    refusal = subject["key"].allow()
    assert isinstance(refusal, Refusal)
    assert 3599 * SECOND < refusal.retry_after_ns <= 3600 * SECOND * 11 // 10
    assert len(subject.tripped()) == 1
    assert subject.snapshot("key").state == "open"
    subject.force_open("key")
    assert repr(subject["key"].allow()).startswith('Refusal(state="forced_open"')


@pytest.mark.parametrize(
    "rules",
    [
        {"consecutive_failures": 0},
        {"failure_rate_percent": 0},
        {"jitter_percent": 101},
        {"probes": 17},
        {"window_ns": 1},
        {"open_ns": 0},
    ],
)
def test_rules_have_bounds(rules: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"numbers|failure rate|probes|spans"):
        CircuitBreakers(CircuitRules(**rules))


def test_only_allow_makes_tickets() -> None:
    for cls in (Circuit, Ticket, Refusal):
        with pytest.raises(TypeError):
            cls()
    with pytest.raises(UnicodeEncodeError):
        breakers()["\ud800"]
    assert repr(breakers()["key"].allow()) == "Ticket(is_probe=False)"
    assert repr(CircuitRules()).startswith("CircuitRules { consecutive_failures: 5,")


def test_threads_share_one_probe() -> None:
    subject = opened()
    later = START + 30 * SECOND
    start = threading.Barrier(8)

    def ask_often(_: int) -> int:
        start.wait()
        return sum(ask(subject, later).allowed for _ in range(500))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask_often, range(8))) == 1


@dataclass
class Table:
    """The transition table, with every past record kept."""

    state: str = "closed"
    changes: int = 0
    until: int = 0
    records: list[tuple[int, bool]] = field(default_factory=list)
    leases: dict[int, int] = field(default_factory=dict)
    successes: int = 0

    def change(self, state: str) -> None:
        self.state, self.successes, self.records, self.leases = state, 0, [], {}
        self.changes += 1


class AgainstTheTable(RuleBasedStateMachine):
    """Rules: 3 in a row or 60 % of 5 in 1000 ns, open 300 ns, 2 probes of 200 ns, 2 successes."""

    def __init__(self) -> None:
        super().__init__()
        self.subject = breakers(
            consecutive_failures=3,
            failure_rate_percent=60,
            window_ns=1000,
            min_calls=5,
            open_ns=300,
            probes=2,
            probe_lease_ns=200,
        )
        self.table = Table()
        self.now = START
        self.probes = 0
        self.out: list[tuple[Ticket, int, int | None]] = []

    @rule()
    def allow(self) -> None:
        table, answer = self.table, ask(self.subject, self.now)
        if table.state == "open" and self.now >= table.until:
            table.change("half_open")
        table.leases = {number: end for number, end in table.leases.items() if end > self.now}
        if table.state == "closed":
            assert isinstance(answer, Ticket)
            assert not answer.is_probe
            self.out.append((answer, table.changes, None))
        elif table.state == "half_open" and len(table.leases) < 2:
            assert isinstance(answer, Ticket)
            assert answer.is_probe
            self.probes += 1
            table.leases[self.probes] = self.now + 200
            self.out.append((answer, table.changes, self.probes))
        else:
            assert isinstance(answer, Refusal)
            assert answer.state == table.state
            end = {"open": table.until, "forced_open": self.now + 300}.get(table.state)
            assert answer.retry_after_ns == (end or min(table.leases.values())) - self.now

    @rule(outcome=st.sampled_from(["success", "failure", "failure", "neutral"]), data=st.data())
    def record(self, outcome: Outcome, data: st.DataObject) -> None:
        if self.out:
            at = data.draw(st.integers(0, len(self.out) - 1))
            ticket, changes, probe = self.out.pop(at)
            assert ticket.record_at(outcome, self.now) == self.expected(outcome, changes, probe)

    def expected(self, outcome: Outcome, changes: int, probe: int | None) -> str | None:
        table = self.table
        if changes != table.changes or (probe is not None and table.leases.get(probe, 0) <= self.now):
            return None
        if probe is not None:
            del table.leases[probe]
            table.successes += outcome == "success"
        elif outcome != "neutral":
            table.records.append((self.now, outcome == "failure"))
        if table.state == "half_open" and table.successes == 2:
            table.change("closed")
            return "closed"
        recent = [failed for at, failed in table.records if self.now // 100 - at // 100 < 10]
        row = [failed for _, failed in table.records[-3:]] == [True] * 3
        rate = len(recent) >= 5 and sum(recent) * 100 >= 60 * len(recent)
        if outcome == "failure" and (probe is not None or row or rate):
            table.change("open")
            table.until = self.now + 300
            return "opened"
        return None

    @rule(span=st.integers(0, 400))
    def wait(self, span: int) -> None:
        self.now += span

    @rule()
    def force_open(self) -> None:
        self.subject.force_open("key", self.now)
        self.table.change("forced_open")

    @rule()
    def reset(self) -> None:
        if self.table.changes or self.table.records or self.out:
            self.subject.reset("key")
            self.table.change("closed")

    @invariant()
    def same_state(self) -> None:
        assert self.subject.snapshot("key", self.now).state == self.table.state


TestAgainstTheTable = AgainstTheTable.TestCase
TestAgainstTheTable.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
