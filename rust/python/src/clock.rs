//! The clocks, read here because the core reads none.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds of a clock that never goes back, since it was first read.
pub(crate) fn monotonic_ns() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds that have at least this many nanoseconds.
pub(crate) fn whole_seconds(span_ns: u64) -> u64 {
    span_ns.div_ceil(1_000_000_000)
}
