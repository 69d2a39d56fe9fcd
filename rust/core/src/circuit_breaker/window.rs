//! Calls and failures of the last while.

/// A window is the current tenth of its length and the nine before it.
pub(super) const SLICES: usize = 10;

/// Calls and failures in each tenth of the window. Its time never goes back: what comes late counts in the newest.
#[derive(Default)]
pub(super) struct Window {
    slices: [Slice; SLICES],
    /// Number of the newest tenth since the beginning of time.
    newest: u64,
}

#[derive(Default, Clone, Copy)]
struct Slice {
    calls: u32,
    failures: u32,
}

impl Window {
    /// Makes the tenth of `now` the newest one.
    pub(super) fn advance(&mut self, now: u64, slice_ns: u64) {
        let number = now / slice_ns;
        let gone = number.saturating_sub(self.newest).min(SLICES as u64);
        for passed in 0..gone {
            if let Some(slice) = self.slice_mut(number - passed) {
                *slice = Slice::default();
            }
        }
        self.newest = self.newest.max(number);
    }

    /// Counts in the newest tenth.
    pub(super) fn count(&mut self, calls: u32, failures: u32) {
        if let Some(slice) = self.slice_mut(self.newest) {
            slice.calls = slice.calls.saturating_add(calls);
            slice.failures = slice.failures.saturating_add(failures);
        }
    }

    /// When the newest tenth began.
    pub(super) fn newest_begins_ns(&self, slice_ns: u64) -> u64 {
        self.newest * slice_ns
    }

    /// When the newest tenth is over.
    pub(super) fn newest_ends_ns(&self, slice_ns: u64) -> u64 {
        (self.newest + 1).saturating_mul(slice_ns)
    }

    /// Calls and failures in the tenths that are not yet over.
    pub(super) fn totals(&self, now: u64, slice_ns: u64) -> (u32, u32) {
        let passed = (now / slice_ns).saturating_sub(self.newest);
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
