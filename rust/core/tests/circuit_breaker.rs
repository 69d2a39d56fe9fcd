//! When circuits open and close: the transition table, a slow model of it, and what threads do to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use agentapi_core::circuit_breaker::{
    Circuit, CircuitBreakers, Counts, Outcome, Recorded, Refusal, Rules, RulesError, State, Ticket,
};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1000 * SECOND;

/// The defaults without jitter.
fn rules() -> Rules {
    Rules {
        jitter_percent: 0,
        ..Rules::default()
    }
}

fn breakers(rules: Rules) -> CircuitBreakers {
    CircuitBreakers::new(rules, 100, 7).unwrap()
}

/// Calls by key; an outcome is that of a call of `key` unless another is said.
trait ByKey {
    fn allow(&self, key: &str, now: u64) -> Result<Ticket, Refusal>;
    fn record(&self, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded;
    fn record_of(&self, key: &str, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded;
}

impl ByKey for CircuitBreakers {
    fn allow(&self, key: &str, now: u64) -> Result<Ticket, Refusal> {
        self.circuit(key, now).allow(now)
    }

    fn record(&self, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
        self.record_of("key", ticket, outcome, now)
    }

    fn record_of(&self, key: &str, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
        self.circuit(key, now).record(ticket, outcome, now)
    }
}

fn call(breakers: &CircuitBreakers, outcome: Outcome, now: u64) -> Recorded {
    breakers.record(breakers.allow("key", now).unwrap(), outcome, now)
}

fn refused(breakers: &CircuitBreakers, now: u64) -> (State, u64) {
    let Refusal {
        state,
        retry_after_ns,
    } = breakers.allow("key", now).unwrap_err();
    (state, retry_after_ns)
}

fn state(breakers: &CircuitBreakers) -> State {
    breakers.snapshot("key", START).state
}

const OPENED: Recorded = Recorded::Opened { open_ns: 30 * SECOND };

/// An open circuit, opened at `START`.
fn opened(rules: Rules) -> CircuitBreakers {
    let breakers = breakers(rules);
    for _ in 1..rules.consecutive_failures {
        assert_eq!(call(&breakers, Outcome::Failure, START), Recorded::Counted);
    }
    assert!(matches!(
        call(&breakers, Outcome::Failure, START),
        Recorded::Opened { .. }
    ));
    breakers
}

#[test]
fn breakers_are_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<CircuitBreakers>();
    is_shared::<Circuit>();
    is_shared::<Ticket>();
}

// The transition table, row by row.

#[test]
fn five_failures_in_a_row_open() {
    let breakers = opened(rules());
    assert_eq!(refused(&breakers, START), (State::Open, 30 * SECOND));
    assert_eq!(refused(&breakers, START + 30 * SECOND - 1), (State::Open, 1));
}

#[test]
fn a_success_ends_the_row() {
    let breakers = breakers(rules());
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(call(&breakers, Outcome::Failure, START), Recorded::Counted);
        }
        assert_eq!(call(&breakers, Outcome::Success, START), Recorded::Counted);
    }
    assert_eq!(state(&breakers), State::Closed);
}

#[test]
fn neutral_outcomes_count_for_nothing() {
    let breakers = breakers(rules());
    for _ in 0..4 {
        call(&breakers, Outcome::Failure, START);
        assert_eq!(call(&breakers, Outcome::Neutral, START), Recorded::Counted);
    }
    let before = breakers.snapshot("key", START);
    assert_eq!(
        (before.consecutive_failures, before.calls, before.failures),
        (4, 4, 4)
    );
    assert_eq!(call(&breakers, Outcome::Failure, START), OPENED);
}

#[test]
fn half_of_enough_calls_failing_opens() {
    let breakers = breakers(rules());
    for _ in 0..9 {
        call(&breakers, Outcome::Failure, START);
        call(&breakers, Outcome::Success, START);
    }
    call(&breakers, Outcome::Success, START);
    // The twentieth call, the tenth to fail.
    assert_eq!(call(&breakers, Outcome::Failure, START), OPENED);
}

#[test]
fn failures_leave_the_window() {
    let breakers = breakers(rules());
    for _ in 0..9 {
        call(&breakers, Outcome::Failure, START);
        call(&breakers, Outcome::Success, START);
    }
    call(&breakers, Outcome::Success, START);
    assert_eq!(breakers.snapshot("key", START + 54 * SECOND).calls, 19);
    assert_eq!(breakers.snapshot("key", START + 60 * SECOND).calls, 0);
    assert_eq!(
        call(&breakers, Outcome::Failure, START + 60 * SECOND),
        Recorded::Counted
    );
}

#[test]
fn two_successful_probes_close() {
    let breakers = opened(rules());
    let later = START + 30 * SECOND;
    let probe = breakers.allow("key", later).unwrap();
    assert!(probe.is_probe());
    assert_eq!(refused(&breakers, later), (State::HalfOpen, 30 * SECOND));
    assert_eq!(breakers.record(probe, Outcome::Success, later), Recorded::Counted);
    assert_eq!(state(&breakers), State::HalfOpen);
    assert_eq!(call(&breakers, Outcome::Success, later), Recorded::Closed);
    assert_eq!(state(&breakers), State::Closed);
    let ticket = breakers.allow("key", later).unwrap();
    assert!(!ticket.is_probe());
    let closed = breakers.snapshot("key", later);
    assert_eq!(
        (closed.consecutive_failures, closed.calls, closed.openings),
        (0, 0, 1)
    );
}

#[test]
fn a_probe_that_fails_opens_again() {
    let breakers = opened(rules());
    let later = START + 31 * SECOND;
    assert_eq!(call(&breakers, Outcome::Success, later), Recorded::Counted);
    assert_eq!(call(&breakers, Outcome::Failure, later), OPENED);
    assert_eq!(refused(&breakers, later), (State::Open, 30 * SECOND));
    // What the first probe achieved is forgotten.
    let again = later + 30 * SECOND;
    assert_eq!(call(&breakers, Outcome::Success, again), Recorded::Counted);
    assert_eq!(call(&breakers, Outcome::Success, again), Recorded::Closed);
}

#[test]
fn a_neutral_probe_frees_its_place() {
    let breakers = opened(rules());
    let later = START + 30 * SECOND;
    assert_eq!(call(&breakers, Outcome::Neutral, later), Recorded::Counted);
    assert_eq!(call(&breakers, Outcome::Success, later), Recorded::Counted);
    assert_eq!(call(&breakers, Outcome::Neutral, later), Recorded::Counted);
    assert_eq!(call(&breakers, Outcome::Success, later), Recorded::Closed);
}

#[test]
fn a_probe_that_never_returns_does_not_wedge_the_circuit() {
    let breakers = opened(rules());
    let later = START + 30 * SECOND;
    let lost = breakers.allow("key", later).unwrap();
    assert_eq!(refused(&breakers, later + 30 * SECOND - 1), (State::HalfOpen, 1));
    let next = breakers.allow("key", later + 30 * SECOND).unwrap();
    assert_eq!(
        breakers.record(lost, Outcome::Failure, later + 30 * SECOND),
        Recorded::Stale
    );
    assert_eq!(breakers.snapshot("key", later + 30 * SECOND).probes, 1);
    assert_eq!(
        breakers.record(next, Outcome::Success, later + 30 * SECOND),
        Recorded::Counted
    );
}

#[test]
fn a_late_probe_counts_for_nothing_even_if_nobody_took_its_place() {
    let breakers = opened(rules());
    let later = START + 30 * SECOND;
    let late = breakers.allow("key", later).unwrap();
    assert_eq!(
        breakers.record(late, Outcome::Success, later + 30 * SECOND),
        Recorded::Stale
    );
}

#[test]
fn tickets_from_before_a_transition_change_nothing() {
    let breakers = breakers(rules());
    let old: Vec<Ticket> = (0..20).map(|_| breakers.allow("key", START).unwrap()).collect();
    for _ in 0..5 {
        call(&breakers, Outcome::Failure, START);
    }
    let mut old = old.into_iter();
    let mut stale = |outcome, now| {
        assert_eq!(
            breakers.record(old.next().unwrap(), outcome, now),
            Recorded::Stale
        );
    };
    stale(Outcome::Success, START);
    stale(Outcome::Failure, START);
    let later = START + 30 * SECOND;
    let first = breakers.allow("key", later).unwrap();
    for outcome in [
        Outcome::Success,
        Outcome::Success,
        Outcome::Failure,
        Outcome::Neutral,
    ] {
        stale(outcome, later);
        assert_eq!(state(&breakers), State::HalfOpen);
        assert!(breakers.allow("key", later).is_err());
    }
    breakers.record(first, Outcome::Success, later);
    call(&breakers, Outcome::Success, later);
    for _ in 0..10 {
        stale(Outcome::Failure, later);
    }
    assert_eq!(breakers.snapshot("key", later).consecutive_failures, 0);
    assert_eq!(state(&breakers), State::Closed);
}

#[test]
fn several_probes_at_a_time() {
    let breakers = opened(Rules { probes: 3, ..rules() });
    let later = START + 30 * SECOND;
    let mut probes: Vec<Ticket> = (0..3).map(|_| breakers.allow("key", later).unwrap()).collect();
    assert_eq!(refused(&breakers, later + 1), (State::HalfOpen, 30 * SECOND - 1));
    assert_eq!(breakers.snapshot("key", later).probes, 3);
    assert_eq!(
        breakers.record(probes.remove(0), Outcome::Success, later),
        Recorded::Counted
    );
    assert_eq!(
        breakers.record(probes.remove(0), Outcome::Success, later),
        Recorded::Closed
    );
    assert_eq!(
        breakers.record(probes.remove(0), Outcome::Failure, later),
        Recorded::Stale
    );
}

#[test]
fn only_a_reset_ends_a_forced_opening() {
    let breakers = breakers(rules());
    let before = breakers.allow("key", START).unwrap();
    breakers.force_open("key", START);
    assert_eq!(
        refused(&breakers, START + 3600 * SECOND),
        (State::ForcedOpen, 30 * SECOND)
    );
    assert_eq!(breakers.record(before, Outcome::Success, START), Recorded::Stale);
    breakers.reset("key");
    assert_eq!(call(&breakers, Outcome::Success, START), Recorded::Counted);
}

#[test]
fn a_reset_closes_without_a_past() {
    let breakers = opened(rules());
    breakers.reset("key");
    for _ in 0..4 {
        assert_eq!(call(&breakers, Outcome::Failure, START), Recorded::Counted);
    }
    let before = breakers.allow("key", START).unwrap();
    breakers.reset("key");
    assert_eq!(breakers.record(before, Outcome::Failure, START), Recorded::Stale);
    breakers.reset("unknown");
    assert_eq!(breakers.len(), 1);
}

#[test]
fn a_clock_that_steps_back_stands_still() {
    let breakers = opened(rules());
    assert_eq!(
        refused(&breakers, START - 500 * SECOND),
        (State::Open, 30 * SECOND)
    );
    let later = START + 30 * SECOND;
    let probe = breakers.allow("key", later).unwrap();
    assert_eq!(refused(&breakers, 0), (State::HalfOpen, 30 * SECOND));
    assert_eq!(breakers.record(probe, Outcome::Failure, 0), OPENED);
    assert_eq!(refused(&breakers, later), (State::Open, 30 * SECOND));
}

// Jitter.

#[test]
fn the_open_time_is_jittered_between_keys_and_openings() {
    let jittered = Rules {
        jitter_percent: 20,
        consecutive_failures: 1,
        ..Rules::default()
    };
    let open_times = |seed| {
        let breakers = CircuitBreakers::new(jittered, 100, seed).unwrap();
        let mut times = Vec::new();
        for key in 0..20 {
            let mut now = START;
            for _ in 0..2 {
                let ticket = breakers.allow(&key.to_string(), now).unwrap();
                let recorded = breakers.record_of(&key.to_string(), ticket, Outcome::Failure, now);
                let Recorded::Opened { open_ns } = recorded else {
                    panic!("still closed");
                };
                now += open_ns;
                times.push(open_ns);
            }
        }
        times
    };
    let times = open_times(7);
    assert!(times.iter().all(|time| (30 * SECOND..36 * SECOND).contains(time)));
    let mut distinct = times.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), times.len());
    assert!(times.iter().any(|time| *time < 32 * SECOND) && times.iter().any(|time| *time > 34 * SECOND));
    assert_eq!(times, open_times(7));
    assert_ne!(times, open_times(8));
}

// Keys, memory, metrics.

#[test]
fn keys_do_not_touch_each_other() {
    let breakers = opened(rules());
    assert!(breakers.allow("key", START).is_err());
    assert!(breakers.allow("other", START).is_ok());
    assert_eq!(breakers.snapshot("unknown", START).state, State::Closed);
    assert_eq!(breakers.len(), 2);
}

#[test]
fn to_make_room_the_healthy_go_first() {
    let breakers = CircuitBreakers::new(rules(), 8, 7).unwrap();
    breakers.force_open("forced", START);
    for _ in 0..5 {
        let ticket = breakers.allow("open", START).unwrap();
        breakers.record_of("open", ticket, Outcome::Failure, START);
    }
    let ticket = breakers.allow("failing", START).unwrap();
    breakers.record_of("failing", ticket, Outcome::Failure, START);
    for number in 0..1000_u64 {
        let _ = breakers.allow(&number.to_string(), START + number);
        assert!(breakers.len() <= 8);
    }
    assert_eq!(breakers.snapshot("failing", START).consecutive_failures, 1);
    let mut tripped = breakers.tripped(START);
    tripped.sort_by(|left, right| left.key.cmp(&right.key));
    let states: Vec<_> = tripped
        .iter()
        .map(|circuit| (circuit.key.as_str(), circuit.state))
        .collect();
    assert_eq!(states, [("forced", State::ForcedOpen), ("open", State::Open)]);
}

#[test]
fn circuits_idle_for_a_day_make_room_unasked() {
    let breakers = CircuitBreakers::new(rules(), 10_000, 7).unwrap();
    for number in 0..100_000_u64 {
        let _ = breakers.allow(&number.to_string(), START + number * 3600 * SECOND);
    }
    assert!(breakers.len() < 1000, "{}", breakers.len());
}

#[test]
fn a_ticket_of_a_forgotten_circuit_is_stale() {
    let breakers = CircuitBreakers::new(rules(), 1, 7).unwrap();
    let old = breakers.allow("key", START).unwrap();
    let _other = breakers.allow("other", START + 1).unwrap();
    let _again = breakers.allow("key", START + 2).unwrap();
    assert_eq!(breakers.record(old, Outcome::Failure, START + 2), Recorded::Stale);
}

// Circuits at hand.

#[test]
fn a_circuit_at_hand_is_that_of_its_key() {
    let breakers = breakers(rules());
    let circuit = breakers.circuit("key", START);
    let before = circuit.allow(START).unwrap();
    assert_eq!(circuit.record(before, Outcome::Failure, START), Recorded::Counted);
    assert_eq!(breakers.snapshot("key", START).failures, 1);
    breakers.force_open("key", START);
    assert!(circuit.closed().is_none());
    assert_eq!(circuit.allow(START).unwrap_err().state, State::ForcedOpen);
    breakers.reset("key");
    assert_eq!(circuit.record(before, Outcome::Failure, START), Recorded::Stale);
    assert_ne!(circuit.closed(), Some(before));
    assert_eq!(circuit.closed(), breakers.circuit("key", START).closed());
}

#[test]
fn a_circuit_that_is_held_is_never_forgotten() {
    let breakers = CircuitBreakers::new(rules(), 8, 7).unwrap();
    let held: Vec<Circuit> = (0..20_u64)
        .map(|number| breakers.circuit(&format!("held {number}"), START))
        .collect();
    for number in 0..10_000 {
        let _ = breakers.circuit(&number.to_string(), START + number * SECOND);
    }
    for circuit in &held {
        let ticket = circuit.allow(START).unwrap();
        circuit.record(ticket, Outcome::Failure, START);
        assert_eq!(breakers.snapshot(circuit.key(), START).failures, 1);
    }
    assert!(breakers.len() < 40, "{}", breakers.len());
    drop(held);
    for number in 0..10_000 {
        let _ = breakers.circuit(&number.to_string(), START + (20_000 + number) * SECOND);
    }
    assert!(breakers.len() <= 8, "{}", breakers.len());
}

#[test]
fn successes_without_the_lock_are_in_the_tenth_of_their_time() {
    let breakers = breakers(rules());
    let circuit = breakers.circuit("key", START);
    let ticket = circuit.allow(START).unwrap();
    for second in 0..120 {
        for _ in 0..3 {
            circuit.record(ticket, Outcome::Success, START + second * SECOND);
        }
    }
    let window = |now| breakers.snapshot("key", now).calls;
    // Tenths of 6 s: that of second 1119 began at 1116, and the ninth before it at 1062.
    assert_eq!(window(START + 119 * SECOND), 3 * (1120 - 1062));
    assert_eq!(window(START + 400 * SECOND), 0);
}

#[test]
fn counts_circuits_by_state() {
    let breakers = opened(rules());
    breakers.force_open("forced", START);
    let _ = breakers.allow("closed", START);
    let counts = Counts {
        closed: 1,
        open: 1,
        half_open: 0,
        forced_open: 1,
    };
    assert_eq!(breakers.counts(), counts);
    let _ = breakers.allow("key", START + 30 * SECOND);
    let counts = Counts {
        open: 0,
        half_open: 1,
        ..counts
    };
    assert_eq!(breakers.counts(), counts);
    assert_eq!(breakers.snapshot("key", START + 40 * SECOND).probes, 1);
    assert_eq!(breakers.snapshot("key", START + 60 * SECOND).probes, 0);
}

#[test]
fn rules_have_bounds() {
    let bad = |rules| CircuitBreakers::new(rules, 1, 0).err();
    let rules = rules();
    assert_eq!(bad(rules), None);
    for zero in [
        Rules {
            consecutive_failures: 0,
            ..rules
        },
        Rules {
            min_calls: 0,
            ..rules
        },
        Rules {
            successes_to_close: 0,
            ..rules
        },
    ] {
        assert_eq!(bad(zero), Some(RulesError::Zero));
    }
    for percentage in [
        Rules {
            failure_rate_percent: 0,
            ..rules
        },
        Rules {
            failure_rate_percent: 102,
            ..rules
        },
        Rules {
            jitter_percent: 101,
            ..rules
        },
    ] {
        assert_eq!(bad(percentage), Some(RulesError::BadPercentage));
    }
    for probes in [0, 17] {
        assert_eq!(bad(Rules { probes, ..rules }), Some(RulesError::BadProbes));
    }
    for span in [
        Rules {
            window_ns: 0,
            ..rules
        },
        Rules {
            window_ns: 15,
            ..rules
        },
        Rules { open_ns: 0, ..rules },
        Rules {
            probe_lease_ns: 86_400 * SECOND + 1,
            ..rules
        },
    ] {
        assert_eq!(bad(span), Some(RulesError::BadSpan));
    }
}

// A model that keeps every record and reads the transition table off it.

#[derive(Debug, Clone, Copy, PartialEq)]
enum ModelState {
    Closed,
    Open { until: u64 },
    HalfOpen,
    Forced,
}

struct Model {
    rules: Rules,
    state: ModelState,
    changes: u64,
    /// All outcomes of the closed state since its last beginning: when, and whether it failed.
    records: Vec<(u64, bool)>,
    probe_successes: u32,
    probes: Vec<(u64, u64)>,
    probes_begun: u64,
}

/// State change at which it was given, and the number of the probe.
type ModelTicket = (u64, Option<u64>);

impl Model {
    fn change(&mut self, state: ModelState) {
        self.state = state;
        self.changes += 1;
        self.records.clear();
        self.probes.clear();
        self.probe_successes = 0;
    }

    fn allow(&mut self, now: u64) -> Result<ModelTicket, u64> {
        match self.state {
            ModelState::Closed => return Ok((self.changes, None)),
            ModelState::Forced => return Err(self.rules.open_ns),
            ModelState::Open { until } if now < until => return Err(until - now),
            ModelState::Open { .. } => self.change(ModelState::HalfOpen),
            ModelState::HalfOpen => self.probes.retain(|(_, lease)| *lease > now),
        }
        if self.probes.len() == self.rules.probes as usize {
            return Err(self.probes.iter().map(|(_, lease)| lease - now).min().unwrap());
        }
        self.probes_begun += 1;
        self.probes
            .push((self.probes_begun, now + self.rules.probe_lease_ns));
        Ok((self.changes, Some(self.probes_begun)))
    }

    fn record(&mut self, (changes, probe): ModelTicket, outcome: Outcome, now: u64) -> Recorded {
        if changes != self.changes {
            return Recorded::Stale;
        }
        if let Some(number) = probe {
            let Some(at) = self
                .probes
                .iter()
                .position(|(other, lease)| *other == number && *lease > now)
            else {
                return Recorded::Stale;
            };
            self.probes.remove(at);
            self.probe_successes += u32::from(outcome == Outcome::Success);
            if outcome == Outcome::Failure {
                return self.open(now);
            }
            if self.probe_successes == self.rules.successes_to_close {
                self.change(ModelState::Closed);
                return Recorded::Closed;
            }
            return Recorded::Counted;
        }
        if outcome != Outcome::Neutral {
            self.records.push((now, outcome == Outcome::Failure));
        }
        let row = self
            .records
            .iter()
            .rev()
            .take_while(|(_, failed)| *failed)
            .count();
        let tenth = self.rules.window_ns / 10;
        let recent = || {
            self.records
                .iter()
                .filter(|(at, _)| now / tenth - at / tenth < 10)
        };
        let (calls, failures) = (recent().count(), recent().filter(|(_, failed)| *failed).count());
        let too_many = row >= self.rules.consecutive_failures as usize
            || (calls >= self.rules.min_calls as usize
                && failures * 100 >= calls * self.rules.failure_rate_percent as usize);
        if outcome == Outcome::Failure && too_many {
            return self.open(now);
        }
        Recorded::Counted
    }

    fn calls(&self, now: u64) -> usize {
        let tenth = self.rules.window_ns / 10;
        let recent = |at: &u64| now / tenth - at / tenth < 10;
        self.records.iter().filter(|(at, _)| recent(at)).count()
    }

    fn row(&self) -> usize {
        self.records
            .iter()
            .rev()
            .take_while(|(_, failed)| *failed)
            .count()
    }

    fn open(&mut self, now: u64) -> Recorded {
        let open_ns = self.rules.open_ns;
        self.change(ModelState::Open { until: now + open_ns });
        Recorded::Opened { open_ns }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Allow,
    /// Which of the tickets that are out, and how the call ended.
    Record(prop::sample::Index, Outcome),
    Wait(u64),
    ForceOpen,
    Reset,
    Look,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let outcome = prop_oneof![
        5 => Just(Outcome::Failure),
        4 => Just(Outcome::Success),
        1 => Just(Outcome::Neutral),
    ];
    let act = prop_oneof![
        12 => Just(Act::Allow),
        12 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Act::Record(which, outcome)),
        4 => (0..400_u64).prop_map(Act::Wait),
        2 => Just(Act::Look),
        1 => prop_oneof![1 => Just(Act::ForceOpen), 3 => Just(Act::Reset)],
    ];
    prop::collection::vec(act, 1..250)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn follows_the_model(
        acts in acts(),
        consecutive_failures in 1_u32..8,
        failure_rate_percent in 1_u32..=101,
        min_calls in 1_u32..12,
        probes in 1_u32..4,
        successes_to_close in 1_u32..4,
    ) {
        let rules = Rules {
            consecutive_failures,
            failure_rate_percent,
            window_ns: 1000,
            min_calls,
            open_ns: 300,
            jitter_percent: 0,
            probes,
            probe_lease_ns: 200,
            successes_to_close,
        };
        let breakers = breakers(rules);
        let mut model = Model {
            rules,
            state: ModelState::Closed,
            changes: 0,
            records: Vec::new(),
            probe_successes: 0,
            probes: Vec::new(),
            probes_begun: 0,
        };
        let circuit = breakers.circuit("key", START);
        let mut out: Vec<(Ticket, ModelTicket)> = Vec::new();
        let mut now = START;
        for act in acts {
            match act {
                Act::Wait(span) => now += span,
                Act::Allow => match (breakers.allow("key", now), model.allow(now)) {
                    (Ok(ticket), Ok(expected)) => {
                        prop_assert_eq!(ticket.is_probe(), expected.1.is_some());
                        out.push((ticket, expected));
                    }
                    (Err(refusal), Err(wait)) => prop_assert_eq!(refusal.retry_after_ns, wait),
                    other => prop_assert!(false, "{:?}", other),
                },
                Act::Record(which, outcome) if !out.is_empty() => {
                    let (ticket, expected) = out.swap_remove(which.index(out.len()));
                    prop_assert_eq!(breakers.record(ticket, outcome, now), model.record(expected, outcome, now));
                }
                Act::Record(..) => {}
                Act::ForceOpen => {
                    breakers.force_open("key", now);
                    model.change(ModelState::Forced);
                }
                Act::Reset => {
                    breakers.reset("key");
                    model.change(ModelState::Closed);
                }
                Act::Look => {
                    let state = match model.state {
                        ModelState::Closed => State::Closed,
                        ModelState::Open { .. } => State::Open,
                        ModelState::HalfOpen => State::HalfOpen,
                        ModelState::Forced => State::ForcedOpen,
                    };
                    let seen = breakers.snapshot("key", now);
                    prop_assert_eq!(seen.state, state);
                    if state == State::Closed {
                        prop_assert_eq!(seen.calls as usize, model.calls(now));
                        prop_assert_eq!(seen.consecutive_failures as usize, model.row());
                    }
                }
            }
            // This takes no lock, so that successes are tallied on.
            prop_assert_eq!(circuit.closed().is_some(), model.state == ModelState::Closed);
        }
    }
}

// Threads.

#[test]
fn threads_get_one_probe_at_a_time() {
    let breakers = opened(rules());
    let (in_flight, granted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let later = START + 30 * SECOND;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if let Ok(probe) = breakers.allow("key", later) {
                        assert_eq!(
                            in_flight.fetch_add(1, Ordering::SeqCst),
                            0,
                            "two probes at a time"
                        );
                        granted.fetch_add(1, Ordering::SeqCst);
                        in_flight.fetch_sub(1, Ordering::SeqCst);
                        assert_eq!(breakers.record(probe, Outcome::Neutral, later), Recorded::Counted);
                    }
                }
            });
        }
    });
    assert!(granted.load(Ordering::SeqCst) > 0);
}

#[test]
fn threads_announce_each_change_once() {
    let rules = Rules {
        open_ns: 1000,
        probe_lease_ns: 1_000_000,
        ..rules()
    };
    let breakers = breakers(rules);
    let clock = AtomicU64::new(START);
    let (opened, closed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let (breakers, clock, opened, closed) = (&breakers, &clock, &opened, &closed);
            scope.spawn(move || {
                for round in 0..20_000 {
                    let now = clock.fetch_add(10, Ordering::Relaxed);
                    let Ok(ticket) = breakers.allow("key", now) else {
                        continue;
                    };
                    let fails = !ticket.is_probe() && (round + thread) % 9 != 0;
                    let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                    match breakers.record(ticket, outcome, now) {
                        Recorded::Opened { .. } => opened.fetch_add(1, Ordering::Relaxed),
                        Recorded::Closed => closed.fetch_add(1, Ordering::Relaxed),
                        Recorded::Counted | Recorded::Stale => 0,
                    };
                }
            });
        }
    });
    let (opened, closed) = (opened.into_inner(), closed.into_inner());
    assert_eq!(breakers.snapshot("key", START).openings, opened);
    assert!(
        opened > 10 && (opened == closed || opened == closed + 1),
        "{opened} {closed}"
    );
}

#[test]
fn threads_lose_no_outcome() {
    const THREADS: u32 = 8;
    const ROUNDS: u32 = 40_000;
    let breakers = breakers(Rules {
        consecutive_failures: u32::MAX,
        failure_rate_percent: 101,
        ..rules()
    });
    let circuit = breakers.circuit("key", START);
    let ticket = circuit.allow(START).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (circuit, breakers) = (&circuit, &breakers);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Half of the window passes, so that tenths begin meanwhile and none ends its time.
                    let now = START + u64::from(round) * 30 * SECOND / u64::from(ROUNDS);
                    let fails = (round + thread) % 7 == 0;
                    let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                    assert_eq!(circuit.record(ticket, outcome, now), Recorded::Counted);
                    if (round + thread) % 11 == 0 {
                        let _ = breakers.snapshot("key", now);
                    }
                }
            });
        }
    });
    let seen = breakers.snapshot("key", START + 30 * SECOND);
    let failures: u32 = (0..THREADS)
        .map(|thread| u32::try_from((0..ROUNDS).filter(|round| (round + thread) % 7 == 0).count()).unwrap())
        .sum();
    assert_eq!((seen.calls, seen.failures), (THREADS * ROUNDS, failures));
}

#[test]
fn no_thread_counts_for_a_later_generation() {
    let breakers = breakers(rules());
    let circuit = breakers.circuit("key", START);
    let old = circuit.allow(START).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for outcome in [Outcome::Success, Outcome::Success, Outcome::Failure] {
                        circuit.record(old, outcome, START);
                    }
                }
            });
        }
        for _ in 0..20_000 {
            breakers.reset("key");
            // A call of now opens the tenth of now, so that successes could be counted without the lock.
            let ticket = circuit.allow(START).unwrap();
            circuit.record(ticket, Outcome::Success, START);
            let seen = breakers.snapshot("key", START);
            assert_eq!((seen.calls, seen.failures), (1, 0));
        }
        done.store(true, Ordering::Relaxed);
    });
}
