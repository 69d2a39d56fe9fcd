//! The clocks, read here because the core reads none. Both are one clock read in two ways: in nanoseconds, it never
//! goes back, and [`coarse_ns`] is never ahead of [`monotonic_ns`].

/// Now. Reading it costs some 20 ns.
#[cfg(target_os = "linux")]
pub(crate) fn monotonic_ns() -> u64 {
    read(rustix::time::ClockId::Monotonic)
}

/// The last tick of the system, up to 10 ms ago. Reading it costs a tenth of reading the time.
#[cfg(target_os = "linux")]
pub(crate) fn coarse_ns() -> u64 {
    read(rustix::time::ClockId::MonotonicCoarse)
}

#[cfg(target_os = "linux")]
fn read(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + nanoseconds
}

/// Now.
#[cfg(not(target_os = "linux"))]
pub(crate) fn monotonic_ns() -> u64 {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Now, as other systems have no coarse clock in common.
#[cfg(not(target_os = "linux"))]
pub(crate) fn coarse_ns() -> u64 {
    monotonic_ns()
}

/// Seconds that have at least this many nanoseconds.
pub(crate) fn whole_seconds(span_ns: u64) -> u64 {
    span_ns.div_ceil(1_000_000_000)
}
