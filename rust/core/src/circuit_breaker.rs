//! Circuit breakers: one circuit for each key, which stops calls to what fails and tries again with a few.
//!
//! Rules:
//! - A circuit *opens* at so many failures in a row, or when so large a part of the calls in a sliding window
//!   failed, if they are enough to judge by. The window is the current tenth of its length and the nine before it.
//! - An open circuit refuses until its time is over: the open time and a jitter on top, drawn from the seed, the key
//!   and the number of the opening, so that circuits that open together do not all probe together.
//! - A *half-open* circuit lets a few *probes* through. Each holds a lease: a probe that never returns frees its
//!   place when the lease ends, and its outcome then counts for nothing.
//! - So many successes of probes close the circuit, one failure opens it again.
//! - Every change of state begins a new generation. A ticket belongs to its generation and is counted once: what was
//!   started before a change cannot cause another one after it.
//! - An error that is the caller's own fault is *neutral*: it counts for nothing and frees the place of a probe.
//! - An operator may force a circuit open, which nothing but a reset ends, and reset it to closed without a past.
//! - For a circuit time never goes back: a clock that does stands still until it has caught up.
//!
//! | state | event | next state | and |
//! |---|---|---|---|
//! | closed | allow | closed | ticket |
//! | closed | success | closed | no failures in a row any more |
//! | closed | failure below both thresholds | closed | counted |
//! | closed | failure that reaches a threshold | open | its time begins |
//! | open | allow before its time is over | open | refusal with the rest of the time |
//! | open | allow after that | half-open | ticket of the first probe |
//! | half-open | allow with a free place | half-open | ticket of a probe |
//! | half-open | allow without one | half-open | refusal until the first lease ends |
//! | half-open | success of a probe, not yet enough | half-open | counted, place freed |
//! | half-open | success of a probe, enough | closed | nothing of the past is kept |
//! | half-open | failure of a probe | open | its time begins anew |
//! | half-open | lease ends | half-open | place freed |
//! | forced open | allow | forced open | refusal |
//! | any | neutral | the same | place freed if it was a probe |
//! | any | ticket of an older generation | the same | nothing |
//! | any | force open | forced open | |
//! | any | reset | closed | nothing of the past is kept |
//!
//! Memory is bounded. To make room, circuits idle for a day without a failure go first, then those without one, then closed ones, half-open ones, open ones,
//! and forced ones last.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::keyed_table::{Evictable, Fingerprint, KeyedTable};

/// The most probes at a time.
pub const MAX_PROBES: u32 = 16;
/// The longest span of a rule, in nanoseconds: a day.
pub const MAX_SPAN_NS: u64 = 24 * 3600 * 1_000_000_000;

const SLICES: usize = 10;
const SECOND_NS: u64 = 1_000_000_000;

/// When circuits open and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row that open a circuit.
    pub consecutive_failures: u32,
    /// Part of the calls in the window that open a circuit by failing, 1 to 100; 101 never does.
    pub failure_rate_percent: u32,
    /// Length of the window, a multiple of 10.
    pub window_ns: u64,
    /// Calls in the window that are enough to judge by.
    pub min_calls: u32,
    /// How long a circuit stays open.
    pub open_ns: u64,
    /// How much of the open time may come on top of it, 0 to 100.
    pub jitter_percent: u32,
    /// Probes at a time, 1 to [`MAX_PROBES`].
    pub probes: u32,
    /// How long a probe holds its place.
    pub probe_lease_ns: u64,
    /// Successes of probes that close a circuit.
    pub successes_to_close: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate_percent: 50,
            window_ns: 60 * SECOND_NS,
            min_calls: 20,
            open_ns: 30 * SECOND_NS,
            jitter_percent: 10,
            probes: 1,
            probe_lease_ns: 30 * SECOND_NS,
            successes_to_close: 2,
        }
    }
}

impl Rules {
    fn check(&self) -> Result<(), RulesError> {
        let spans = [self.window_ns, self.open_ns, self.probe_lease_ns];
        let tenths = SLICES as u64;
        if [self.consecutive_failures, self.min_calls, self.successes_to_close].contains(&0) {
            Err(RulesError::Zero)
        } else if !(1..=101).contains(&self.failure_rate_percent) || self.jitter_percent > 100 {
            Err(RulesError::BadPercentage)
        } else if !(1..=MAX_PROBES).contains(&self.probes) {
            Err(RulesError::BadProbes)
        } else if spans.iter().any(|span| !(1..=MAX_SPAN_NS).contains(span))
            || !self.window_ns.is_multiple_of(tenths)
        {
            Err(RulesError::BadSpan)
        } else {
            Ok(())
        }
    }
}

/// Why rules are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A number of failures, calls or successes is zero.
    #[error("numbers of failures, calls and successes are at least 1")]
    Zero,
    /// The failure rate or the jitter.
    #[error("a failure rate is 1 to 100 percent, or 101 for never; a jitter is 0 to 100 percent")]
    BadPercentage,
    /// Not 1 to [`MAX_PROBES`].
    #[error("there are 1 to 16 probes at a time")]
    BadProbes,
    /// A span is zero, longer than [`MAX_SPAN_NS`], or a window cannot be cut into tenths.
    #[error("spans are up to a day, and a window has whole tenths")]
    BadSpan,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The other side did its part.
    Success,
    /// The other side failed.
    Failure,
    /// The call says nothing about the other side: the caller was wrong or gave up.
    Neutral,
}

/// The state of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls go through.
    Closed,
    /// Calls are refused for a time.
    Open,
    /// Some calls go through, to see.
    HalfOpen,
    /// Calls are refused until a reset.
    ForcedOpen,
}

impl State {
    /// The name of the state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
        }
    }
}

/// The right to make one call and to say once how it ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the outcome of the call has to be recorded"]
pub struct Ticket {
    fingerprint: Fingerprint,
    generation: u64,
    /// Number of the probe within its generation; 0 for a call of a closed circuit.
    probe: u64,
}

impl Ticket {
    /// Whether the call is a probe.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe != 0
    }
}

/// The circuit lets no call through now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why: open, half-open with all its places taken, or forced open.
    pub state: State,
    /// When to ask again. A forced circuit cannot tell and says its ordinary open time.
    pub retry_after_ns: u64,
}

/// What recording an outcome did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It was counted, or was neutral.
    Counted,
    /// The ticket was of an older generation, its lease had ended, or the circuit is forgotten.
    Stale,
    /// It opened the circuit, for that long.
    Opened {
        /// Open time with its jitter.
        open_ns: u64,
    },
    /// It closed the circuit.
    Closed,
}

/// One circuit, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Names the circuit.
    pub key: String,
    /// Its state; an open circuit stays open until a call is allowed as its probe.
    pub state: State,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Calls recorded in the window.
    pub calls: u32,
    /// How many of them failed.
    pub failures: u32,
    /// Probes that hold a place.
    pub probes: u32,
    /// The rest of the open time.
    pub retry_after_ns: u64,
    /// How often it opened since it is known.
    pub openings: u64,
}

/// How many circuits are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Closed ones that are known.
    pub closed: usize,
    /// Open ones.
    pub open: usize,
    /// Half-open ones.
    pub half_open: usize,
    /// Forced ones.
    pub forced_open: usize,
}

/// The circuits of many keys under the same rules.
pub struct CircuitBreakers {
    rules: Rules,
    seed: u64,
    table: KeyedTable<Circuit>,
    generations: AtomicU64,
}

struct Circuit {
    generation: u64,
    seen_ns: u64,
    phase: Phase,
    consecutive_failures: u32,
    window: Window,
    openings: u64,
    key: Box<str>,
}

enum Phase {
    Closed,
    Open {
        until_ns: u64,
    },
    HalfOpen {
        successes: u32,
        probes_begun: u64,
        probes: Vec<Probe>,
    },
    ForcedOpen,
}

struct Probe {
    number: u64,
    lease_until_ns: u64,
}

/// Calls and failures in each tenth of the window.
#[derive(Default)]
struct Window {
    slices: [Slice; SLICES],
    /// Number of the newest tenth since the beginning of time.
    newest: u64,
}

#[derive(Default, Clone, Copy)]
struct Slice {
    calls: u32,
    failures: u32,
}

impl CircuitBreakers {
    /// Circuits for at most `capacity` keys, but at least one. Equal seeds give equal jitter; it should not be
    /// known to those who choose keys.
    ///
    /// # Errors
    /// Any [`RulesError`].
    pub fn new(rules: Rules, capacity: usize, seed: u64) -> Result<Self, RulesError> {
        rules.check()?;
        Ok(Self {
            rules,
            seed,
            table: KeyedTable::new(capacity, [seed, mix(seed)]),
            generations: AtomicU64::new(1),
        })
    }

    /// Asks to make a call at `now`, in nanoseconds of any clock that is used for all calls.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn allow(&self, key: &str, now: u64) -> Result<Ticket, Refusal> {
        let fingerprint = self.table.fingerprint(key.as_bytes());
        let mut shard = self.table.lock(fingerprint);
        let circuit = shard.get_or_insert_with(fingerprint, now, || {
            Circuit::new(key, now, self.next_generation())
        });
        let now = circuit.advance(now);
        let refuse = |state, retry_after_ns| {
            Err(Refusal {
                state,
                retry_after_ns,
            })
        };
        match &mut circuit.phase {
            Phase::Closed => {}
            Phase::ForcedOpen => return refuse(State::ForcedOpen, self.rules.open_ns),
            Phase::Open { until_ns } if now < *until_ns => {
                return refuse(State::Open, *until_ns - now);
            }
            Phase::Open { .. } => {
                circuit.generation = self.next_generation();
                circuit.phase = Phase::HalfOpen {
                    successes: 0,
                    probes_begun: 0,
                    probes: Vec::new(),
                };
            }
            Phase::HalfOpen { probes, .. } => probes.retain(|probe| now < probe.lease_until_ns),
        }
        let mut number = 0;
        if let Phase::HalfOpen {
            probes_begun, probes, ..
        } = &mut circuit.phase
        {
            if probes.len() >= self.rules.probes as usize {
                let first_end = probes.iter().map(|probe| probe.lease_until_ns).min();
                return refuse(State::HalfOpen, first_end.unwrap_or(now).saturating_sub(now));
            }
            *probes_begun += 1;
            number = *probes_begun;
            probes.push(Probe {
                number,
                lease_until_ns: now.saturating_add(self.rules.probe_lease_ns),
            });
        }
        Ok(Ticket {
            fingerprint,
            generation: circuit.generation,
            probe: number,
        })
    }

    /// Says how a call ended. The ticket is spent.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a ticket counts once, so that it is consumed"
    )]
    pub fn record(&self, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
        let mut shard = self.table.lock(ticket.fingerprint);
        let Some(circuit) = shard
            .get_mut(ticket.fingerprint)
            .filter(|circuit| circuit.generation == ticket.generation)
        else {
            return Recorded::Stale;
        };
        let now = circuit.advance(now);
        if let Phase::HalfOpen {
            successes, probes, ..
        } = &mut circuit.phase
        {
            let live = |probe: &Probe| probe.number == ticket.probe && now < probe.lease_until_ns;
            let Some(place) = probes.iter().position(live) else {
                return Recorded::Stale;
            };
            probes.swap_remove(place);
            return match outcome {
                Outcome::Neutral => Recorded::Counted,
                Outcome::Failure => self.open(circuit, ticket.fingerprint, now),
                Outcome::Success => {
                    *successes += 1;
                    if *successes < self.rules.successes_to_close {
                        return Recorded::Counted;
                    }
                    circuit.close(self.next_generation());
                    Recorded::Closed
                }
            };
        }
        match outcome {
            Outcome::Neutral => {}
            Outcome::Success => {
                circuit.consecutive_failures = 0;
                circuit.window.count(now, &self.rules, 0);
            }
            Outcome::Failure => {
                circuit.consecutive_failures = circuit.consecutive_failures.saturating_add(1);
                circuit.window.count(now, &self.rules, 1);
                let (calls, failures) = circuit.window.totals(now, &self.rules);
                let rate_reached = calls >= self.rules.min_calls
                    && u64::from(failures) * 100
                        >= u64::from(calls) * u64::from(self.rules.failure_rate_percent);
                if circuit.consecutive_failures >= self.rules.consecutive_failures || rate_reached {
                    return self.open(circuit, ticket.fingerprint, now);
                }
            }
        }
        Recorded::Counted
    }

    /// Refuses all calls of `key` until [`Self::reset`].
    pub fn force_open(&self, key: &str, now: u64) {
        let fingerprint = self.table.fingerprint(key.as_bytes());
        let mut shard = self.table.lock(fingerprint);
        let circuit = shard.get_or_insert_with(fingerprint, now, || Circuit::new(key, now, 0));
        circuit.advance(now);
        circuit.generation = self.next_generation();
        circuit.phase = Phase::ForcedOpen;
    }

    /// Closes the circuit of `key` without a past.
    pub fn reset(&self, key: &str) {
        let fingerprint = self.table.fingerprint(key.as_bytes());
        let mut shard = self.table.lock(fingerprint);
        if let Some(circuit) = shard.get_mut(fingerprint) {
            circuit.close(self.next_generation());
        }
    }

    /// The circuit of `key`; one that is not known is closed.
    #[must_use]
    pub fn snapshot(&self, key: &str, now: u64) -> Snapshot {
        let fingerprint = self.table.fingerprint(key.as_bytes());
        let shard = self.table.lock(fingerprint);
        match shard.get(fingerprint) {
            Some(circuit) => circuit.snapshot(now, &self.rules),
            None => Circuit::new(key, now, 0).snapshot(now, &self.rules),
        }
    }

    /// The circuits that are not closed, in no order.
    #[must_use]
    pub fn tripped(&self, now: u64) -> Vec<Snapshot> {
        let mut tripped = Vec::new();
        self.table.for_each_shard(|shard| {
            let circuits = shard.states().filter(|circuit| circuit.state() != State::Closed);
            tripped.extend(circuits.map(|circuit| circuit.snapshot(now, &self.rules)));
        });
        tripped
    }

    /// How many circuits are in each state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.table.for_each_shard(|shard| {
            for circuit in shard.states() {
                match circuit.state() {
                    State::Closed => counts.closed += 1,
                    State::Open => counts.open += 1,
                    State::HalfOpen => counts.half_open += 1,
                    State::ForcedOpen => counts.forced_open += 1,
                }
            }
        });
        counts
    }

    /// How many keys are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no key is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self, circuit: &mut Circuit, fingerprint: Fingerprint, now: u64) -> Recorded {
        circuit.openings += 1;
        let span_ns = self.rules.open_ns * u64::from(self.rules.jitter_percent) / 100;
        let drawn = mix(self.seed ^ mix(fingerprint.bits() ^ mix(circuit.openings)));
        let open_ns = self.rules.open_ns + scale(span_ns, drawn);
        circuit.generation = self.next_generation();
        circuit.phase = Phase::Open {
            until_ns: now.saturating_add(open_ns),
        };
        Recorded::Opened { open_ns }
    }
}

impl std::fmt::Debug for CircuitBreakers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CircuitBreakers")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Circuit {
    fn new(key: &str, now: u64, generation: u64) -> Self {
        Self {
            generation,
            seen_ns: now,
            phase: Phase::Closed,
            consecutive_failures: 0,
            window: Window::default(),
            openings: 0,
            key: Box::from(key),
        }
    }

    /// The time for this circuit.
    fn advance(&mut self, now: u64) -> u64 {
        self.seen_ns = self.seen_ns.max(now);
        self.seen_ns
    }

    fn close(&mut self, generation: u64) {
        self.generation = generation;
        self.phase = Phase::Closed;
        self.consecutive_failures = 0;
        self.window = Window::default();
    }

    fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::ForcedOpen => State::ForcedOpen,
        }
    }

    fn snapshot(&self, now: u64, rules: &Rules) -> Snapshot {
        let now = self.seen_ns.max(now);
        let (calls, failures) = self.window.totals(now, rules);
        let (probes, retry_after_ns) = match &self.phase {
            Phase::HalfOpen { probes, .. } => {
                let live = probes.iter().filter(|probe| now < probe.lease_until_ns).count();
                (u32::try_from(live).unwrap_or(u32::MAX), 0)
            }
            Phase::Open { until_ns } => (0, until_ns.saturating_sub(now)),
            Phase::Closed | Phase::ForcedOpen => (0, 0),
        };
        Snapshot {
            key: self.key.as_ref().to_owned(),
            state: self.state(),
            consecutive_failures: self.consecutive_failures,
            calls,
            failures,
            probes,
            retry_after_ns,
            openings: self.openings,
        }
    }
}

impl Evictable for Circuit {
    fn worth(&self, now: u64) -> Option<(u8, u64)> {
        let is_idle = self.seen_ns.saturating_add(MAX_SPAN_NS) < now;
        match self.phase {
            Phase::Closed if self.consecutive_failures == 0 && is_idle => None,
            Phase::Closed if self.consecutive_failures == 0 => Some((0, self.seen_ns)),
            Phase::Closed => Some((1, self.seen_ns)),
            Phase::HalfOpen { .. } => Some((2, self.seen_ns)),
            Phase::Open { until_ns } => Some((3, until_ns)),
            Phase::ForcedOpen => Some((4, self.seen_ns)),
        }
    }
}

impl Window {
    fn slice_number(now: u64, rules: &Rules) -> u64 {
        now / (rules.window_ns / SLICES as u64)
    }

    fn count(&mut self, now: u64, rules: &Rules, failures: u32) {
        let number = Self::slice_number(now, rules);
        let gone = number.saturating_sub(self.newest).min(SLICES as u64);
        for passed in 0..gone {
            if let Some(slice) = self.slice_mut(number - passed) {
                *slice = Slice::default();
            }
        }
        self.newest = self.newest.max(number);
        if let Some(slice) = self.slice_mut(number) {
            slice.calls = slice.calls.saturating_add(1);
            slice.failures = slice.failures.saturating_add(failures);
        }
    }

    /// Calls and failures in the tenths that are not yet over.
    fn totals(&self, now: u64, rules: &Rules) -> (u32, u32) {
        let passed = Self::slice_number(now, rules).saturating_sub(self.newest);
        (passed..SLICES as u64)
            .filter_map(|age| self.slice(self.newest.checked_sub(age - passed)?))
            .fold((0_u32, 0_u32), |(calls, failures), slice| {
                (
                    calls.saturating_add(slice.calls),
                    failures.saturating_add(slice.failures),
                )
            })
    }

    fn slice(&self, number: u64) -> Option<&Slice> {
        self.slices.get(usize::try_from(number % SLICES as u64).ok()?)
    }

    fn slice_mut(&mut self, number: u64) -> Option<&mut Slice> {
        self.slices.get_mut(usize::try_from(number % SLICES as u64).ok()?)
    }
}

/// The finalizer of `SplitMix64`: every bit of the result depends on every bit of `value`.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The part `drawn / 2^64` of `span`.
#[allow(clippy::cast_possible_truncation, reason = "smaller than `span`")]
fn scale(span: u64, drawn: u64) -> u64 {
    ((u128::from(span) * u128::from(drawn)) >> u64::BITS) as u64
}
