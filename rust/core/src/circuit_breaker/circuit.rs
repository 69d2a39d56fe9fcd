//! One circuit.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::rules::{MAX_SPAN_NS, Rules};
use super::state::{Outcome, Recorded, Refusal, Snapshot, State};
use super::tally::Tally;
use super::window::{SLICES, Window};
use crate::keyed_table::Evictable;
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// The right to make one call and to say how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the outcome of the call has to be recorded"]
pub struct Ticket {
    generation: u64,
    /// Number of the probe within its generation; 0 for a call of a closed circuit.
    probe: u64,
}

impl Ticket {
    /// Whether the call is a probe.
    #[must_use]
    pub fn is_probe(self) -> bool {
        self.probe != 0
    }
}

/// What the circuits of one table have in common.
pub(super) struct Common {
    pub(super) rules: Rules,
    pub(super) seed: u64,
    pub(super) generations: AtomicU64,
}

impl Common {
    fn next_generation(&self) -> u64 {
        // Relaxed: no two threads draw the same number, which is all it says; what a generation begins with is
        // handed on by the lock of its circuit.
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    fn slice_ns(&self) -> u64 {
        self.rules.window_ns / SLICES as u64
    }
}

/// The circuit of one key, to be kept beside what it guards. Clones are the same circuit.
#[derive(Clone)]
pub struct Circuit(Arc<Shared>);

struct Shared {
    common: Arc<Common>,
    key: Box<str>,
    /// Bits that only this key of the table has.
    bits: u64,
    tally: Tally,
    inner: Mutex<Inner>,
}

/// What is read and changed under the lock.
struct Inner {
    generation: u64,
    seen_ns: u64,
    phase: Phase,
    consecutive_failures: u32,
    window: Window,
    openings: u64,
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

impl Inner {
    fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::ForcedOpen => State::ForcedOpen,
        }
    }
}

/// The lock of a circuit, with what was tallied without it.
struct Held<'c> {
    circuit: &'c Shared,
    inner: MutexGuard<'c, Inner>,
}

impl Circuit {
    pub(super) fn new(common: Arc<Common>, key: &str, bits: u64, now: u64) -> Self {
        let inner = Inner {
            generation: common.next_generation(),
            seen_ns: now,
            phase: Phase::Closed,
            consecutive_failures: 0,
            window: Window::default(),
            openings: 0,
        };
        let circuit = Self(Arc::new(Shared {
            common,
            key: Box::from(key),
            bits,
            tally: Tally::new(),
            inner: Mutex::new(inner),
        }));
        drop(circuit.0.hold());
        circuit
    }

    /// Names the circuit.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// The ticket of all calls while the circuit stays closed, if it is. It takes no lock and needs no time.
    #[must_use]
    pub fn closed(&self) -> Option<Ticket> {
        let generation = self.0.tally.closed_generation()?;
        Some(Ticket { generation, probe: 0 })
    }

    /// Asks to make a call at `now`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn allow(&self, now: u64) -> Result<Ticket, Refusal> {
        match self.closed() {
            Some(ticket) => Ok(ticket),
            None => self.0.hold().allow(now),
        }
    }

    /// Says how the call of a ticket ended.
    #[allow(clippy::must_use_candidate, reason = "few have to know what it did")]
    pub fn record(&self, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
        if outcome == Outcome::Success && self.0.tally.count(ticket.generation, now) {
            return Recorded::Counted;
        }
        self.0.hold().record(ticket, outcome, now)
    }

    pub(super) fn force_open(&self, now: u64) {
        let mut held = self.0.hold();
        held.advance(now);
        held.enter(Phase::ForcedOpen);
    }

    pub(super) fn reset(&self) {
        self.0.hold().close();
    }

    /// The state of the circuit.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.inner.lock().state()
    }

    /// All there is to show of the circuit at `now`.
    #[must_use]
    pub fn snapshot(&self, now: u64) -> Snapshot {
        self.0.hold().snapshot(now)
    }
}

impl std::fmt::Debug for Circuit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Circuit")
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn hold(&self) -> Held<'_> {
        let mut inner = self.inner.lock();
        let successes = self.tally.end();
        if successes > 0 {
            inner.consecutive_failures = 0;
            inner.window.count(successes, 0);
        }
        Held { circuit: self, inner }
    }
}

impl Deref for Held<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let closed = matches!(self.phase, Phase::Closed).then_some(self.generation);
        let ends_ns = self.window.newest_ends_ns(self.circuit.common.slice_ns());
        self.circuit.tally.begin(closed, ends_ns);
    }
}

impl Held<'_> {
    /// The time for this circuit.
    fn advance(&mut self, now: u64) -> u64 {
        self.seen_ns = self.seen_ns.max(now);
        self.seen_ns
    }

    fn enter(&mut self, phase: Phase) {
        self.generation = self.circuit.common.next_generation();
        self.phase = phase;
    }

    fn close(&mut self) {
        self.enter(Phase::Closed);
        self.consecutive_failures = 0;
        self.window = Window::default();
    }

    fn open(&mut self, now: u64) -> Recorded {
        self.openings += 1;
        let Common { rules, seed, .. } = &*self.circuit.common;
        let span_ns = rules.open_ns * u64::from(rules.jitter_percent) / 100;
        let drawn = mix(seed ^ mix(self.circuit.bits ^ mix(self.openings)));
        let open_ns = rules.open_ns + scale(span_ns, drawn);
        self.enter(Phase::Open {
            until_ns: now.saturating_add(open_ns),
        });
        Recorded::Opened { open_ns }
    }

    fn allow(&mut self, now: u64) -> Result<Ticket, Refusal> {
        let rules = self.circuit.common.rules;
        let refuse = |state, retry_after_ns| {
            Err(Refusal {
                state,
                retry_after_ns,
            })
        };
        if matches!(self.phase, Phase::Closed) {
            let generation = self.generation;
            return Ok(Ticket { generation, probe: 0 });
        }
        let now = self.advance(now);
        match &mut self.phase {
            Phase::Closed => {}
            Phase::ForcedOpen => return refuse(State::ForcedOpen, rules.open_ns),
            Phase::Open { until_ns } if now < *until_ns => return refuse(State::Open, *until_ns - now),
            Phase::Open { .. } => self.enter(Phase::HalfOpen {
                successes: 0,
                probes_begun: 0,
                probes: Vec::new(),
            }),
            Phase::HalfOpen { probes, .. } => probes.retain(|probe| now < probe.lease_until_ns),
        }
        let generation = self.generation;
        let mut number = 0;
        if let Phase::HalfOpen {
            probes_begun, probes, ..
        } = &mut self.phase
        {
            if probes.len() >= rules.probes as usize {
                let first_end = probes.iter().map(|probe| probe.lease_until_ns).min();
                return refuse(State::HalfOpen, first_end.unwrap_or(now).saturating_sub(now));
            }
            *probes_begun += 1;
            number = *probes_begun;
            probes.push(Probe {
                number,
                lease_until_ns: now.saturating_add(rules.probe_lease_ns),
            });
        }
        Ok(Ticket {
            generation,
            probe: number,
        })
    }

    fn record(&mut self, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
        if self.generation != ticket.generation {
            return Recorded::Stale;
        }
        match outcome {
            _ if ticket.is_probe() => self.record_probe(ticket.probe, outcome, now),
            Outcome::Neutral => Recorded::Counted,
            Outcome::Success => {
                self.consecutive_failures = 0;
                let slice_ns = self.circuit.common.slice_ns();
                self.window.advance(now, slice_ns);
                self.window.count(1, 0);
                Recorded::Counted
            }
            Outcome::Failure => self.record_failure(now),
        }
    }

    fn record_failure(&mut self, now: u64) -> Recorded {
        let rules = self.circuit.common.rules;
        let slice_ns = self.circuit.common.slice_ns();
        let now = self.advance(now);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.window.advance(now, slice_ns);
        self.window.count(1, 1);
        let (calls, failures) = self.window.totals(now, slice_ns);
        let rate_reached = calls >= rules.min_calls
            && u64::from(failures) * 100 >= u64::from(calls) * u64::from(rules.failure_rate_percent);
        if self.consecutive_failures >= rules.consecutive_failures || rate_reached {
            return self.open(now);
        }
        Recorded::Counted
    }

    fn record_probe(&mut self, number: u64, outcome: Outcome, now: u64) -> Recorded {
        let to_close = self.circuit.common.rules.successes_to_close;
        let now = self.advance(now);
        let Phase::HalfOpen {
            successes, probes, ..
        } = &mut self.phase
        else {
            return Recorded::Stale;
        };
        let live = |probe: &Probe| probe.number == number && now < probe.lease_until_ns;
        let Some(place) = probes.iter().position(live) else {
            return Recorded::Stale;
        };
        probes.swap_remove(place);
        match outcome {
            Outcome::Neutral => Recorded::Counted,
            Outcome::Failure => self.open(now),
            Outcome::Success => {
                *successes += 1;
                if *successes < to_close {
                    return Recorded::Counted;
                }
                self.close();
                Recorded::Closed
            }
        }
    }

    fn snapshot(&self, now: u64) -> Snapshot {
        let now = self.seen_ns.max(now);
        let (calls, failures) = self.window.totals(now, self.circuit.common.slice_ns());
        let (probes, retry_after_ns) = match &self.phase {
            Phase::HalfOpen { probes, .. } => {
                let live = probes.iter().filter(|probe| now < probe.lease_until_ns).count();
                (u32::try_from(live).unwrap_or(u32::MAX), 0)
            }
            Phase::Open { until_ns } => (0, until_ns.saturating_sub(now)),
            Phase::Closed | Phase::ForcedOpen => (0, 0),
        };
        Snapshot {
            key: self.circuit.key.as_ref().to_owned(),
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
    fn is_held(&self) -> bool {
        // Only the table makes the second owner, under the lock of the shard that asks. So no owner is overlooked;
        // one that has just gone may still be counted.
        Arc::strong_count(&self.0) > 1
    }

    fn worth(&self, now: u64) -> Option<(u8, u64)> {
        let held = self.0.hold();
        // A success moves the window alone.
        let used_ns = held
            .seen_ns
            .max(held.window.newest_begins_ns(self.0.common.slice_ns()));
        let is_idle = used_ns.saturating_add(MAX_SPAN_NS) < now;
        match held.phase {
            Phase::Closed if held.consecutive_failures == 0 && is_idle => None,
            Phase::Closed if held.consecutive_failures == 0 => Some((0, used_ns)),
            Phase::Closed => Some((1, used_ns)),
            Phase::HalfOpen { .. } => Some((2, used_ns)),
            Phase::Open { until_ns } => Some((3, until_ns)),
            Phase::ForcedOpen => Some((4, used_ns)),
        }
    }
}

/// The finalizer of `SplitMix64`: every bit of the result depends on every bit of `value`.
pub(super) fn mix(value: u64) -> u64 {
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
