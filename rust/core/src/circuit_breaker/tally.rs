//! Successes of a closed circuit, counted without its lock.
//!
//! One word holds how many came since the lock was last held, and the number of that holding, the *era*. Whoever
//! takes the lock takes the count too and leaves the word full, so that nothing is counted beside it; giving the
//! lock back begins the next era. So a success is counted in one step, and only while the generation and the tenth
//! of the window are those of its era: had either changed in between, the word would have too.
//!
//! Why that holds on processors that reorder (`tests/interleavings.rs` tries orders of steps, but none of those):
//! - Who reads the word of an era reads the generation and the end that were stored before it, or later ones: the
//!   word is stored with `Release` and read with `Acquire`, and each count in between carries that on.
//! - Who reads a later one cannot count in the era any more. It was stored with `Release` after the word had been
//!   filled and is read with `Acquire`, so that the exchange comes after the filling and finds another word.
//! - Who takes the count has all of it: an exchange comes before the filling or fails.

use crate::sync::{AtomicU64, Ordering};

const COUNT_BITS: u32 = 20;
/// No room: the lock is held, or has to be taken to make room.
const FULL: u64 = (1 << COUNT_BITS) - 1;

/// What can be known and counted of a circuit without its lock.
pub(super) struct Tally {
    word: AtomicU64,
    /// The generation of the circuit while it is closed, otherwise 0.
    closed_generation: AtomicU64,
    /// When the newest tenth of the window is over.
    ends_ns: AtomicU64,
}

impl Tally {
    /// Full until [`Self::begin`].
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(FULL),
            closed_generation: AtomicU64::new(0),
            ends_ns: AtomicU64::new(0),
        }
    }

    /// The generation of the circuit if it is closed.
    pub(super) fn closed_generation(&self) -> Option<u64> {
        match self.closed_generation.load(Ordering::Acquire) {
            0 => None,
            generation => Some(generation),
        }
    }

    /// Counts one success, unless that needs the lock.
    pub(super) fn count(&self, generation: u64, now: u64) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word & FULL >= FULL - 1
                || self.closed_generation.load(Ordering::Acquire) != generation
                || now >= self.ends_ns.load(Ordering::Acquire)
            {
                return false;
            }
            let counted =
                self.word
                    .compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Acquire);
            match counted {
                Ok(_) => return true,
                Err(changed) => word = changed,
            }
        }
    }

    /// Takes the count; nothing more is counted until [`Self::begin`]. For who holds the lock.
    pub(super) fn end(&self) -> u32 {
        match self.word.fetch_or(FULL, Ordering::AcqRel) & FULL {
            FULL => 0,
            #[allow(clippy::cast_possible_truncation, reason = "at most `FULL`")]
            count => count as u32,
        }
    }

    /// Begins the next era. For who holds the lock and has ended the last one.
    pub(super) fn begin(&self, closed_generation: Option<u64>, ends_ns: u64) {
        self.closed_generation
            .store(closed_generation.unwrap_or(0), Ordering::Release);
        self.ends_ns.store(ends_ns, Ordering::Release);
        // Relaxed: the word is full, and nobody but who holds the lock changes a full one.
        let era = self.word.load(Ordering::Relaxed) >> COUNT_BITS;
        self.word
            .store(era.wrapping_add(1) << COUNT_BITS, Ordering::Release);
    }
}
