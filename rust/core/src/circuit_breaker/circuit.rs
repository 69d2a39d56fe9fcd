//! One circuit.

use std::sync::Arc;

use super::phase::{Held, Inner, Phase};
use super::rules::{MAX_SPAN_NS, Rules};
use super::state::{Outcome, Recorded, Refusal, Snapshot, State};
use super::tally::Tally;
use super::window::SLICES;
use crate::keyed_table::Evictable;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// The right to make one call and to say how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the outcome of the call has to be recorded"]
pub struct Ticket {
    pub(super) generation: u64,
    /// Number of the probe within its generation; 0 for a call of a closed circuit.
    pub(super) probe: u64,
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
    pub(super) fn next_generation(&self) -> u64 {
        // Relaxed: no two threads draw the same number, which is all it says; what a generation begins with is
        // handed on by the lock of its circuit.
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn slice_ns(&self) -> u64 {
        self.rules.window_ns / SLICES as u64
    }
}

/// The circuit of one key, to be kept beside what it guards. Clones are the same circuit.
#[derive(Clone)]
pub struct Circuit(Arc<Shared>);

/// What the clones of a circuit share.
pub(super) struct Shared {
    pub(super) common: Arc<Common>,
    pub(super) key: Box<str>,
    /// Bits that only this key of the table has.
    pub(super) bits: u64,
    pub(super) tally: Tally,
    inner: Mutex<Inner>,
}

impl Circuit {
    pub(super) fn new(common: Arc<Common>, key: &str, bits: u64, now: u64) -> Self {
        let inner = Inner::closed(common.next_generation(), now);
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
