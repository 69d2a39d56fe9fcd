//! When circuits open and close.

use super::window::SLICES;

/// The most probes at a time.
pub const MAX_PROBES: u32 = 16;
/// The longest span of a rule, in nanoseconds: a day.
pub const MAX_SPAN_NS: u64 = 24 * 3600 * 1_000_000_000;

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
    pub(super) fn check(&self) -> Result<(), RulesError> {
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
