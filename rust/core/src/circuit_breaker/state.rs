//! What a circuit is told and what it shows.

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
