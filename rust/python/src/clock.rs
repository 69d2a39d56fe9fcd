//! The clocks, read here because the core reads none.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds of a clock that never goes back, since it was first read.
pub(crate) fn monotonic_ns() -> u64 {
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of a clock that never goes back and is up to one tick of the system (1 to 10 ms) behind, but costs a
/// tenth of the other to read. For spans of seconds; its values and those of the other have nothing in common.
#[cfg(target_os = "linux")]
pub(crate) fn coarse_ns() -> u64 {
    use rustix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::MonotonicCoarse);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanoseconds.unwrap_or(0)
}

/// The clock that never goes back, as there is no coarse one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn coarse_ns() -> u64 {
    monotonic_ns()
}

/// Seconds that have at least this many nanoseconds.
pub(crate) fn whole_seconds(span_ns: u64) -> u64 {
    span_ns.div_ceil(1_000_000_000)
}
