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
//! - Every change of state begins a new generation. A ticket belongs to its generation: what was started before a
//!   change cannot cause another one after it. The ticket of a probe counts once. A closed circuit gives the same
//!   ticket to all calls of its generation, and each call says once how it ended.
//! - An error that is the caller's own fault is *neutral*: it counts for nothing and frees the place of a probe.
//! - An operator may force a circuit open, which nothing but a reset ends, and reset it to closed without a past.
//! - For a circuit time never goes back: a clock that does stands still until it has caught up. Calls that a closed
//!   circuit lets through and their successes take no lock and move the tenths of its window alone.
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
//! Memory is bounded. To make room, circuits idle for a day without a failure go first, then those without one, then
//! closed ones, half-open ones, open ones, and forced ones last. A circuit that somebody holds stays, so that a key
//! never has two; so many more than the capacity are kept if need be.

mod circuit;
mod phase;
mod rules;
mod state;
mod tally;
mod window;

use std::sync::Arc;

use self::circuit::Common;
pub use self::circuit::{Circuit, Ticket};
use self::phase::mix;
pub use self::rules::{MAX_PROBES, MAX_SPAN_NS, Rules, RulesError};
pub use self::state::{Outcome, Recorded, Refusal, Snapshot, State};
use crate::keyed_table::KeyedTable;
use crate::sync::AtomicU64;

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
    common: Arc<Common>,
    table: KeyedTable<Circuit>,
}

impl CircuitBreakers {
    /// Circuits for at most `capacity` keys beside those that are held, but at least one. Equal seeds give equal
    /// jitter; it should not be known to those who choose keys.
    ///
    /// # Errors
    /// Any [`RulesError`].
    pub fn new(rules: Rules, capacity: usize, seed: u64) -> Result<Self, RulesError> {
        rules.check()?;
        let common = Common {
            rules,
            seed,
            generations: AtomicU64::new(1),
        };
        Ok(Self {
            common: Arc::new(common),
            table: KeyedTable::new(capacity, [seed, mix(seed)]),
        })
    }

    /// The circuit of `key`, made at `now` if there is none. Times are in nanoseconds of any clock that is used for
    /// all calls. It stays known for as long as it is held.
    #[must_use]
    pub fn circuit(&self, key: &str, now: u64) -> Circuit {
        let fingerprint = self.table.fingerprint(key.as_bytes());
        let new = || Circuit::new(Arc::clone(&self.common), key, fingerprint.bits(), now);
        self.table
            .lock(fingerprint)
            .get_or_insert_with(fingerprint, now, new)
            .clone()
    }

    /// Refuses all calls of `key` until [`Self::reset`].
    pub fn force_open(&self, key: &str, now: u64) {
        self.circuit(key, now).force_open(now);
    }

    /// Closes the circuit of `key` without a past.
    pub fn reset(&self, key: &str) {
        if let Some(circuit) = self.known(key) {
            circuit.reset();
        }
    }

    /// The circuit of `key`; one that is not known is closed.
    #[must_use]
    pub fn snapshot(&self, key: &str, now: u64) -> Snapshot {
        self.known(key)
            .unwrap_or_else(|| Circuit::new(Arc::clone(&self.common), key, 0, now))
            .snapshot(now)
    }

    /// The circuits that are not closed, in no order.
    #[must_use]
    pub fn tripped(&self, now: u64) -> Vec<Snapshot> {
        let mut tripped = Vec::new();
        self.table.for_each_shard(|shard| {
            let circuits = shard.states().filter(|circuit| circuit.state() != State::Closed);
            tripped.extend(circuits.map(|circuit| circuit.snapshot(now)));
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

    fn known(&self, key: &str) -> Option<Circuit> {
        let fingerprint = self.table.fingerprint(key.as_bytes());
        self.table.lock(fingerprint).get(fingerprint).cloned()
    }
}

impl std::fmt::Debug for CircuitBreakers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CircuitBreakers")
            .field("rules", &self.common.rules)
            .finish_non_exhaustive()
    }
}
