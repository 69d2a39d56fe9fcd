//! Rate limits: token buckets as the generic cell rate algorithm (ITU-T I.371, "virtual scheduling").
//!
//! A bucket holds up to `burst` tokens and gets one back each interval. All that is kept of it is the moment at
//! which it is full again, the theoretical arrival time (TAT), and the latest time it has seen.
//!
//! Invariants:
//! - Whole nanoseconds alone; intervals are whole microseconds, rounded up. So a script that counts microseconds in
//!   doubles decides alike (`tests/vectors/token_bucket.json`), and no rounding ever admits more than the limit.
//! - The limit comes with each call and is not kept: a plan that changes does so at once, and what was taken under
//!   the old one stays taken.
//! - For a bucket that is not full time never goes back: a clock that does stands still for it until it has caught
//!   up, which gives no token back and takes none away.
//! - A refusal takes nothing, and of several limits either all give what is asked or none does.
//! - Memory is bounded. A full bucket is the same as an unknown one, so that forgetting it loses nothing; only if
//!   none is found is the one forgotten that is soonest full, and counted by [`TokenBuckets::evicted`].

use std::hash::{BuildHasher as _, RandomState};

use crate::keyed_table::{Evictable, Fingerprint, KeyedTable};

/// The longest time in which an empty bucket may become full, in nanoseconds: 366 days.
pub const MAX_WINDOW_NS: u64 = 366 * 24 * 3600 * 1_000_000_000;
/// The most limits that one request may have.
pub const MAX_REQUESTS: usize = 32;

const NS_PER_US: u64 = 1000;

/// Why a limit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The count, the period or the burst is zero.
    #[error("count, period and burst of a limit are at least 1")]
    Zero,
    /// More than one token a microsecond.
    #[error("a limit gives at most one token a microsecond")]
    TooFast,
    /// The bucket would need more than [`MAX_WINDOW_NS`] to become full.
    #[error("a bucket becomes full within 366 days")]
    TooSlow,
}

/// More than [`MAX_REQUESTS`] limits in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request has at most 32 limits")]
pub struct TooManyRequests;

/// How fast and up to how many tokens a bucket fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    interval_ns: u64,
    burst: u32,
}

impl Limit {
    /// `count` tokens in each `period_ns` and at most `burst` at once.
    ///
    /// # Errors
    /// Any [`LimitError`].
    pub fn new(count: u32, period_ns: u64, burst: u32) -> Result<Self, LimitError> {
        if count == 0 || period_ns == 0 || burst == 0 {
            return Err(LimitError::Zero);
        }
        if u128::from(count) * u128::from(NS_PER_US) > u128::from(period_ns) {
            return Err(LimitError::TooFast);
        }
        let interval_ns = period_ns
            .div_ceil(u64::from(count))
            .checked_next_multiple_of(NS_PER_US)
            .ok_or(LimitError::TooSlow)?;
        match interval_ns.checked_mul(u64::from(burst)) {
            Some(window_ns) if window_ns <= MAX_WINDOW_NS => Ok(Self { interval_ns, burst }),
            _ => Err(LimitError::TooSlow),
        }
    }

    /// The time in which one token comes back, in nanoseconds.
    #[must_use]
    pub fn interval_ns(self) -> u64 {
        self.interval_ns
    }

    /// The most tokens a bucket holds.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// The time in which an empty bucket becomes full, in nanoseconds.
    #[must_use]
    pub fn window_ns(self) -> u64 {
        self.interval_ns * u64::from(self.burst)
    }

    /// How many tokens come back in a span of at most [`Self::window_ns`].
    #[allow(clippy::cast_possible_truncation, reason = "at most `burst`")]
    fn tokens_in(self, span_ns: u64) -> u32 {
        // Most refusals find less than one token; to do without the division takes some 6 ns off them.
        if span_ns < self.interval_ns {
            0
        } else {
            (span_ns / self.interval_ns) as u32
        }
    }

    /// Decides about `cost` tokens of a bucket; also says when it is full again, which moves if they are taken.
    fn decide(self, cost: u32, bucket: Bucket) -> (Decision, Bucket) {
        let now = bucket.seen_ns;
        let window_ns = self.window_ns();
        let taken_ns = bucket.full_at_ns.saturating_sub(now);
        let decision = |outcome, taken_ns, retry_after_ns| Decision {
            outcome,
            remaining: self.tokens_in(window_ns.saturating_sub(taken_ns)),
            retry_after_ns,
            reset_ns: taken_ns,
        };
        if cost > self.burst {
            return (decision(Outcome::NeverFits, taken_ns, 0), bucket);
        }
        let wanted_ns = taken_ns.saturating_add(self.interval_ns * u64::from(cost));
        let wait_ns = wanted_ns.saturating_sub(window_ns);
        if wait_ns > 0 {
            return (decision(Outcome::Refused, taken_ns, wait_ns), bucket);
        }
        let after = Bucket {
            full_at_ns: now.saturating_add(wanted_ns),
            seen_ns: now,
        };
        (decision(Outcome::Allowed, wanted_ns, 0), after)
    }
}

/// What became of a request for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The tokens were there.
    Allowed,
    /// They will be there after a while.
    Refused,
    /// The cost is more than the burst: no waiting helps.
    NeverFits,
}

/// What one limit says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the tokens were there. With several limits: whether they were in this one.
    pub outcome: Outcome,
    /// Tokens that are left.
    pub remaining: u32,
    /// How long to wait until the same request can be allowed; 0 unless refused.
    pub retry_after_ns: u64,
    /// How long until the bucket is full.
    pub reset_ns: u64,
}

/// One limit that a request has to pass.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Names the bucket.
    pub key: &'a [u8],
    /// Its limit at this moment.
    pub limit: Limit,
    /// How many tokens are asked for; 0 only looks.
    pub cost: u32,
}

/// What several limits say about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decisions {
    /// Allowed if every limit allows it; otherwise nothing was taken anywhere.
    pub outcome: Outcome,
    /// How long to wait until every limit can allow it; 0 unless refused.
    pub retry_after_ns: u64,
    /// One for each limit, in order. If the request is refused, what a limit that allows it has left is what it
    /// had before.
    pub each: Vec<Decision>,
}

/// When a bucket is full again, and the latest time it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    full_at_ns: u64,
    seen_ns: u64,
}

impl Bucket {
    fn full(now: u64) -> Self {
        Self {
            full_at_ns: now,
            seen_ns: now,
        }
    }

    /// The bucket at its own time; one that is full is like an unknown one and has no time.
    fn at(self, now: u64) -> Self {
        let seen_ns = self.seen_ns.max(now);
        if self.full_at_ns <= seen_ns {
            Self::full(now)
        } else {
            Self { seen_ns, ..self }
        }
    }
}

/// A bucket as it is and as it will be if the request is allowed.
struct Touched {
    fingerprint: Fingerprint,
    before: Bucket,
    after: Bucket,
}

impl Evictable for Bucket {
    fn worth(&self, now: u64) -> Option<(u8, u64)> {
        (self.full_at_ns > now).then_some((0, self.full_at_ns))
    }
}

/// The buckets of many keys.
pub struct TokenBuckets {
    table: KeyedTable<Bucket>,
}

impl TokenBuckets {
    /// Buckets for at most `capacity` keys, but at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let random = RandomState::new();
        Self {
            table: KeyedTable::new(capacity, [random.hash_one(0), random.hash_one(1)]),
        }
    }

    /// Takes `cost` tokens from the bucket of `key` if they are there. `now` is in nanoseconds of any clock that
    /// is used for all calls; a cost of 0 only looks.
    #[must_use]
    pub fn acquire(&self, key: &[u8], limit: Limit, cost: u32, now: u64) -> Decision {
        let fingerprint = self.table.fingerprint(key);
        let mut shard = self.table.lock(fingerprint);
        if let Some(bucket) = shard.get_mut(fingerprint) {
            let (decision, after) = limit.decide(cost, bucket.at(now));
            *bucket = after;
            return decision;
        }
        let (decision, after) = limit.decide(cost, Bucket::full(now));
        if after.full_at_ns > now {
            shard.get_or_insert_with(fingerprint, now, || after);
        }
        decision
    }

    /// Takes tokens from several buckets if all of them have what is asked, otherwise from none. Limits with one
    /// key share a bucket and are served in order.
    ///
    /// # Errors
    /// [`TooManyRequests`].
    pub fn acquire_many(&self, requests: &[Request<'_>], now: u64) -> Result<Decisions, TooManyRequests> {
        if requests.len() > MAX_REQUESTS {
            return Err(TooManyRequests);
        }
        let fingerprints: Vec<Fingerprint> = requests
            .iter()
            .map(|request| self.table.fingerprint(request.key))
            .collect();
        let mut shards = self.table.lock_all(&fingerprints);

        // Decided on copies, which take the place of the buckets if every limit allows the request.
        let mut buckets: Vec<Touched> = Vec::with_capacity(requests.len());
        let mut each = Vec::with_capacity(requests.len());
        let mut untouched = Vec::with_capacity(requests.len());
        for (request, fingerprint) in requests.iter().zip(fingerprints) {
            let known = buckets.iter().position(|other| other.fingerprint == fingerprint);
            let at = known.unwrap_or_else(|| {
                let held = shards
                    .of(fingerprint)
                    .and_then(|shard| shard.get(fingerprint).copied());
                let before = held.unwrap_or(Bucket::full(now)).at(now);
                buckets.push(Touched {
                    fingerprint,
                    before,
                    after: before,
                });
                buckets.len() - 1
            });
            if let Some(bucket) = buckets.get_mut(at) {
                let (decision, after) = request.limit.decide(request.cost, bucket.after);
                untouched.push(request.limit.decide(0, bucket.before).0);
                each.push(decision);
                bucket.after = after;
            }
        }
        let outcome = worst(&each);
        for bucket in buckets {
            let Some(shard) = shards.of(bucket.fingerprint) else {
                continue;
            };
            if outcome != Outcome::Allowed {
                if let Some(held) = shard.get_mut(bucket.fingerprint) {
                    *held = bucket.before;
                }
            } else if bucket.after.full_at_ns > bucket.after.seen_ns {
                *shard.get_or_insert_with(bucket.fingerprint, now, || bucket.after) = bucket.after;
            }
        }
        if outcome != Outcome::Allowed {
            for (decision, untouched) in each.iter_mut().zip(untouched) {
                decision.remaining = untouched.remaining;
                decision.reset_ns = untouched.reset_ns;
            }
        }
        let retry_after_ns = match outcome {
            Outcome::Refused => each
                .iter()
                .map(|decision| decision.retry_after_ns)
                .max()
                .unwrap_or(0),
            Outcome::Allowed | Outcome::NeverFits => 0,
        };
        Ok(Decisions {
            outcome,
            retry_after_ns,
            each,
        })
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

    /// How many buckets were forgotten before they were full, for want of room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.table.evicted()
    }
}

impl std::fmt::Debug for TokenBuckets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TokenBuckets").finish_non_exhaustive()
    }
}

fn worst(each: &[Decision]) -> Outcome {
    let any = |outcome| each.iter().any(|decision| decision.outcome == outcome);
    if any(Outcome::NeverFits) {
        Outcome::NeverFits
    } else if any(Outcome::Refused) {
        Outcome::Refused
    } else {
        Outcome::Allowed
    }
}
