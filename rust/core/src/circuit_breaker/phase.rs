//! What one circuit goes through: the phases and what leads from one to the next, all under its lock.

use std::ops::{Deref, DerefMut};

use super::circuit::{Common, Shared, Ticket};
use super::state::{Outcome, Recorded, Refusal, Snapshot, State};
use super::window::Window;
use crate::sync::MutexGuard;

/// What is read and changed under the lock.
pub(super) struct Inner {
    generation: u64,
    pub(super) seen_ns: u64,
    pub(super) phase: Phase,
    pub(super) consecutive_failures: u32,
    pub(super) window: Window,
    openings: u64,
}

pub(super) enum Phase {
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

pub(super) struct Probe {
    number: u64,
    lease_until_ns: u64,
}

impl Inner {
    /// A closed circuit without a past.
    pub(super) fn closed(generation: u64, now: u64) -> Self {
        Self {
            generation,
            seen_ns: now,
            phase: Phase::Closed,
            consecutive_failures: 0,
            window: Window::default(),
            openings: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::ForcedOpen => State::ForcedOpen,
        }
    }
}

/// The lock of a circuit, with what was tallied without it.
pub(super) struct Held<'c> {
    pub(super) circuit: &'c Shared,
    pub(super) inner: MutexGuard<'c, Inner>,
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
    pub(super) fn advance(&mut self, now: u64) -> u64 {
        self.seen_ns = self.seen_ns.max(now);
        self.seen_ns
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.generation = self.circuit.common.next_generation();
        self.phase = phase;
    }

    pub(super) fn close(&mut self) {
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

    pub(super) fn allow(&mut self, now: u64) -> Result<Ticket, Refusal> {
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

    pub(super) fn record(&mut self, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
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

    pub(super) fn snapshot(&self, now: u64) -> Snapshot {
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
