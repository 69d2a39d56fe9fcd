//! A bounded table of small states, found by a fingerprint of their key.
//!
//! Invariants: a state is found by 128 bits of a keyed hash that nobody outside can predict, so that keys chosen by
//! a client cannot be made to meet, and one key costs the same memory however long it is; the table never holds
//! more than its capacity, but for states that are in use outside of it; making room costs a bounded number of steps,
//! and what is worth least goes first.

use std::hash::Hasher as _;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::sync::{Mutex, MutexGuard};

const MAX_SHARDS: usize = 64;
/// Smaller shards would evict while others have room.
const MIN_SHARD_ENTRIES: usize = 64;
/// How many slots are looked at to make room; the table is at most 7/8 full, so that most of them are taken.
const SAMPLE: usize = 8;
/// How many are looked at in all, should the most be empty or held.
const MOST_LOOKED_AT: usize = 16 * SAMPLE;

/// 128 bits of keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    slot_bits: u64,
    shard_bits: u64,
}

impl Fingerprint {
    /// Bits that only equal keys of one table share.
    pub(crate) fn bits(self) -> u64 {
        self.slot_bits ^ self.shard_bits
    }
}

/// What a table says of the worth of its states.
pub(crate) trait Evictable {
    /// What the state is worth at `now`: `None` if nothing is lost with it, else the smallest goes first.
    fn worth(&self, now: u64) -> Option<(u8, u64)>;

    /// Whether the state is in use outside of the table, so that it has to stay.
    fn is_held(&self) -> bool {
        false
    }
}

/// Shards of states.
pub(crate) struct KeyedTable<E> {
    hasher: SipHasher13,
    shards: Box<[PaddedShard<E>]>,
}

/// A line of its own (two, as they are fetched in pairs), so that threads on different shards do not meet.
#[repr(align(128))]
struct PaddedShard<E>(Mutex<Shard<E>>);

/// States under one lock.
pub(crate) struct Shard<E> {
    table: HashTable<(Fingerprint, E)>,
    capacity: usize,
    /// The slot where the next search for room begins.
    hand: usize,
    evicted: u64,
}

/// Several shards, locked together.
pub(crate) struct LockedShards<'t, E> {
    table: &'t KeyedTable<E>,
    /// Sorted by number.
    locked: Vec<(usize, MutexGuard<'t, Shard<E>>)>,
}

impl<E: Evictable> KeyedTable<E> {
    /// Holds at most `capacity` states, but at least one.
    pub(crate) fn new(capacity: usize, hash_key: [u64; 2]) -> Self {
        let capacity = capacity.max(1);
        let shards = (capacity / MIN_SHARD_ENTRIES).clamp(1, MAX_SHARDS);
        let shard = || PaddedShard(Mutex::new(Shard::new(capacity / shards)));
        Self {
            hasher: SipHasher13::new_with_keys(hash_key[0], hash_key[1]),
            shards: (0..shards).map(|_| shard()).collect(),
        }
    }

    pub(crate) fn fingerprint(&self, key: &[u8]) -> Fingerprint {
        let mut hasher = self.hasher;
        hasher.write(key);
        let (slot_bits, shard_bits) = hasher.finish128().as_u64();
        Fingerprint {
            slot_bits,
            shard_bits,
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "some bits of the hash are as good as all"
    )]
    fn shard_of(&self, fingerprint: Fingerprint) -> usize {
        fingerprint.shard_bits as usize % self.shards.len()
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "`shard_of` gives a remainder, which is smaller than the number of shards"
    )]
    pub(crate) fn lock(&self, fingerprint: Fingerprint) -> MutexGuard<'_, Shard<E>> {
        self.shards[self.shard_of(fingerprint)].0.lock()
    }

    /// Locks the shards of several keys, always in the same order, so that no two threads wait for each other.
    pub(crate) fn lock_all(&self, fingerprints: &[Fingerprint]) -> LockedShards<'_, E> {
        let mut numbers: Vec<usize> = fingerprints
            .iter()
            .map(|fingerprint| self.shard_of(*fingerprint))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let locked = numbers
            .into_iter()
            .filter_map(|number| Some((number, self.shards.get(number)?.0.lock())));
        LockedShards {
            table: self,
            locked: locked.collect(),
        }
    }

    /// Locks the shards one after the other.
    pub(crate) fn for_each_shard(&self, mut visit: impl FnMut(&Shard<E>)) {
        for shard in &self.shards {
            visit(&shard.0.lock());
        }
    }

    pub(crate) fn len(&self) -> usize {
        let mut len = 0;
        self.for_each_shard(|shard| len += shard.table.len());
        len
    }

    /// How many states went although something was lost with them.
    pub(crate) fn evicted(&self) -> u64 {
        let mut evicted = 0;
        self.for_each_shard(|shard| evicted += shard.evicted);
        evicted
    }
}

impl<E: Evictable> LockedShards<'_, E> {
    /// The shard of one of the keys that were locked.
    pub(crate) fn of(&mut self, fingerprint: Fingerprint) -> Option<&mut Shard<E>> {
        let number = self.table.shard_of(fingerprint);
        let at = self
            .locked
            .binary_search_by_key(&number, |(held, _)| *held)
            .ok()?;
        self.locked.get_mut(at).map(|(_, shard)| &mut **shard)
    }
}

impl<E: Evictable> Shard<E> {
    fn new(capacity: usize) -> Self {
        Self {
            table: HashTable::new(),
            capacity,
            hand: 0,
            evicted: 0,
        }
    }

    pub(crate) fn get(&self, fingerprint: Fingerprint) -> Option<&E> {
        self.table
            .find(fingerprint.slot_bits, |(held, _)| *held == fingerprint)
            .map(|(_, state)| state)
    }

    pub(crate) fn get_mut(&mut self, fingerprint: Fingerprint) -> Option<&mut E> {
        self.table
            .find_mut(fingerprint.slot_bits, |(held, _)| *held == fingerprint)
            .map(|(_, state)| state)
    }

    /// The state of a key, made by `new` if there is none.
    pub(crate) fn get_or_insert_with(
        &mut self,
        fingerprint: Fingerprint,
        now: u64,
        new: impl FnOnce() -> E,
    ) -> &mut E {
        if self.get(fingerprint).is_none() {
            self.make_room(now);
            // States that were held may have left it too full.
            if self.table.len() >= self.capacity {
                self.make_room(now);
            }
        }
        let entry = self.table.entry(
            fingerprint.slot_bits,
            |(held, _)| *held == fingerprint,
            |(held, _)| held.slot_bits,
        );
        match entry {
            Entry::Occupied(entry) => &mut entry.into_mut().1,
            Entry::Vacant(entry) => &mut entry.insert((fingerprint, new())).into_mut().1,
        }
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = &E> {
        self.table.iter().map(|(_, state)| state)
    }

    /// Takes out what is worth nothing of the next slots in turn, and if that makes no room, what is worth least.
    fn make_room(&mut self, now: u64) {
        let slots = self.table.num_buckets();
        let mut least: Option<((u8, u64), usize)> = None;
        let (mut looked_at, mut taken) = (0, 0);
        while looked_at < slots.min(MOST_LOOKED_AT) && taken < SAMPLE {
            let slot = self.hand;
            self.hand = if slot + 1 < slots { slot + 1 } else { 0 };
            looked_at += 1;
            let Ok(entry) = self.table.get_bucket_entry(slot) else {
                // A table that is far from full has no need to look further.
                if looked_at >= SAMPLE && self.table.len() < self.capacity {
                    return;
                }
                continue;
            };
            if entry.get().1.is_held() {
                continue;
            }
            taken += 1;
            match entry.get().1.worth(now) {
                None => drop(entry.remove()),
                Some(worth) if least.is_none_or(|(other, _)| worth < other) => least = Some((worth, slot)),
                Some(_) => {}
            }
        }
        if self.table.len() < self.capacity {
            return;
        }
        if let Some(entry) = least.and_then(|(_, slot)| self.table.get_bucket_entry(slot).ok()) {
            drop(entry.remove());
            self.evicted += 1;
        }
    }
}
