//! Tokens that were verified already.
//!
//! Invariants: only the identical token hits, byte for byte; what depends on time and place (`exp`, `nbf`, the
//! audience) is checked again on every hit; a token whose key has left its set, or that was revoked, never hits:
//! once [`CachingVerifier::replace_keys`] or a revocation has returned, no thread gets it any more. The memory is
//! bounded by the number of entries and by [`MAX_CACHED_TOKEN_BYTES`] for each.
//!
//! An invalidation costs the same however much is remembered: it marks, and each entry is compared with the marks
//! when it is next asked for. Revocations are counted after they are listed, and an entry says which count it was
//! last compared at, so that as long as none is added a hit reads one number more.
//!
//! An entry is found by a keyed hash of the end of the token. That is enough: the end is the signature, which
//! nobody can choose, and only tokens with a good signature are ever remembered. One hash holds one entry, so
//! that even a collision costs a verification and not a search.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

use crate::jwks::{KeySet, KeySetError};
use crate::jwt::{TokenError, Verified, Verifier};
use crate::revocation::{RevocationError, Revocations};
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};

/// A longer token is verified each time.
pub const MAX_CACHED_TOKEN_BYTES: usize = 4096;

/// How much of the end of a token is hashed: 48 bytes of signature.
const HASHED_BYTES: usize = 64;
const MAX_SHARDS: usize = 64;
/// Smaller shards would evict while others have room.
const MIN_SHARD_ENTRIES: usize = 64;
/// How many entries are looked at to make room.
const SAMPLE: usize = 8;
/// How many slots are looked at to find them. A full shard has more entries than empty slots, unless it is small.
const MAX_SLOTS_SEEN: usize = 256;

/// A [`Verifier`] that remembers what it has verified as `V`, which gives access to its [`Verified`].
pub struct CachingVerifier<V> {
    verifier: Verifier,
    /// Read under the lock of a shard, and never held while waiting for one.
    revocations: RwLock<Revocations>,
    /// How often something was listed there.
    revoked: AtomicU64,
    hash_key: RandomState,
    shards: Box<[Mutex<Shard<V>>]>,
    shard_entries: usize,
}

struct Entry<V> {
    hash: u64,
    token: Box<str>,
    value: V,
    /// What [`CachingVerifier::revoked`] was before the entry was last compared with the list.
    compared_at: u64,
}

struct Shard<V> {
    entries: HashTable<Entry<V>>,
    /// The slot where the next search for the dead begins.
    hand: usize,
}

impl<V: Borrow<Verified>> CachingVerifier<V> {
    /// Remembers at most `capacity` tokens; with 0 it remembers none.
    #[must_use]
    pub fn new(verifier: Verifier, capacity: usize) -> Self {
        let shards = (capacity / MIN_SHARD_ENTRIES).clamp(1, MAX_SHARDS);
        Self {
            verifier,
            revocations: RwLock::new(Revocations::default()),
            revoked: AtomicU64::new(0),
            hash_key: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
            shard_entries: capacity / shards,
        }
    }

    /// Answers for a token that is remembered: `take` of what was remembered, or why it does not hold here and
    /// now. `None` if the token has to be verified. `take` runs under a lock and must not wait for anything.
    pub fn recall<R>(
        &self,
        token: &str,
        audience: &str,
        now: i64,
        take: impl FnOnce(&V) -> R,
    ) -> Option<Result<R, TokenError>> {
        let hash = self.hash(token);
        let mut shard = self.shard(hash).lock();
        let entry = shard.find_mut(hash, token)?;
        let revoked = self.revoked.load(Ordering::Acquire);
        if self.is_dead(entry, revoked, now) {
            let dead = shard.remove(hash);
            drop(shard);
            drop(dead);
            return None;
        }
        entry.compared_at = revoked;
        let verified: &Verified = entry.value.borrow();
        Some(
            verified
                .check(audience, now, self.verifier.leeway_s())
                .map(|()| take(&entry.value)),
        )
    }

    /// Verifies a token that is not remembered.
    ///
    /// # Errors
    /// Any [`TokenError`].
    pub fn verify(&self, token: &str, audience: &str, now: i64) -> Result<Verified, TokenError> {
        let verified = self.verifier.verify(token, audience, now)?;
        self.check_unrevoked(&verified)?;
        Ok(verified)
    }

    /// Remembers `value` for `token` unless another thread was faster, and takes from what is remembered then.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`] or [`TokenError::Revoked`] if that has become true since the verification.
    pub fn remember<R>(
        &self,
        token: &str,
        value: V,
        now: i64,
        take: impl FnOnce(&V) -> R,
    ) -> Result<R, TokenError> {
        let hash = self.hash(token);
        let mut shard = self.shard(hash).lock();
        // What a revocation lists after this count was read is compared again when the token is next shown.
        let revoked = self.revoked.load(Ordering::Acquire);
        let fresh: &Verified = value.borrow();
        if fresh.is_key_retired() {
            let issuer = std::sync::Arc::clone(&fresh.issuer);
            return Err(TokenError::UnknownKey { issuer });
        }
        self.check_unrevoked(fresh)?;
        if self.shard_entries == 0 || token.len() > MAX_CACHED_TOKEN_BYTES {
            return Ok(take(&value));
        }
        if let Some(entry) = shard
            .find(hash, token)
            .filter(|entry| !entry.value.borrow().is_key_retired())
        {
            return Ok(take(&entry.value));
        }
        let mut gone = shard.scavenge(|entry| self.is_dead(entry, revoked, now));
        gone.extend(shard.remove(hash));
        if shard.entries.len() >= self.shard_entries {
            gone.extend(shard.evict());
        }
        let answer = take(&value);
        shard.insert(Entry {
            hash,
            token: Box::from(token),
            value,
            compared_at: revoked,
        });
        drop(shard);
        drop(gone);
        Ok(answer)
    }

    /// Puts a key set in the place of the issuer's and returns how many keys are usable. What retired keys have
    /// verified never hits again; its memory is reclaimed as it is asked for or as new tokens come, so that a
    /// rotation costs the same however much is remembered.
    ///
    /// # Errors
    /// Any [`KeySetError`]; the old set then stays.
    pub fn replace_keys(&self, issuer: &str, key_set: &[u8]) -> Result<usize, KeySetError> {
        let keys = KeySet::parse(key_set)?;
        let usable = keys.len();
        self.verifier.replace_keys(issuer, keys)?;
        Ok(usable)
    }

    /// Refuses the issuer's token `token_id` (its `jti`) from now on; `expires_at` is its `exp`, or later.
    ///
    /// # Errors
    /// Any [`RevocationError`].
    pub fn revoke_token(
        &self,
        issuer: &str,
        token_id: &str,
        expires_at: i64,
        now: i64,
    ) -> Result<(), RevocationError> {
        let issuer = self
            .verifier
            .issuer(issuer)
            .ok_or(RevocationError::UnknownIssuer)?;
        let until = self.dead_from(expires_at);
        self.revocations.write().add_token(issuer, token_id, until, now)?;
        self.revoked.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Refuses from now on what the issuer gave `subject` before `issued_before`, and all that does not say when.
    /// `expires_at` is the last `exp` of such a token, or later; without it the entry stays.
    ///
    /// # Errors
    /// Any [`RevocationError`].
    pub fn revoke_subject(
        &self,
        issuer: &str,
        subject: &str,
        issued_before: i64,
        expires_at: Option<i64>,
        now: i64,
    ) -> Result<(), RevocationError> {
        let issuer = self
            .verifier
            .issuer(issuer)
            .ok_or(RevocationError::UnknownIssuer)?;
        let until = expires_at.map_or(i64::MAX, |expires_at| self.dead_from(expires_at));
        self.revocations
            .write()
            .add_subject(issuer, subject, issued_before, until, now)?;
        self.revoked.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How many revocations are listed.
    #[must_use]
    pub fn revocations(&self) -> usize {
        self.revocations.read().len()
    }

    fn dead_from(&self, expires_at: i64) -> i64 {
        expires_at.saturating_add(self.verifier.leeway_s())
    }

    fn check_unrevoked(&self, verified: &Verified) -> Result<(), TokenError> {
        if self.revocations.read().covers(verified) {
            Err(TokenError::Revoked)
        } else {
            Ok(())
        }
    }

    /// Whether no token may hit an entry any more; `revoked` is the count read before.
    fn is_dead(&self, entry: &Entry<V>, revoked: u64, now: i64) -> bool {
        let verified: &Verified = entry.value.borrow();
        verified.is_key_retired()
            || verified.is_expired(now, self.verifier.leeway_s())
            || (entry.compared_at != revoked && self.revocations.read().covers(verified))
    }

    /// How many tokens are remembered, with the dead ones that are not reclaimed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
    }

    /// Whether no token is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, token: &str) -> u64 {
        let bytes = token.as_bytes();
        let end = bytes
            .len()
            .checked_sub(HASHED_BYTES)
            .and_then(|start| bytes.get(start..))
            .unwrap_or(bytes);
        let mut hasher = self.hash_key.build_hasher();
        hasher.write(end);
        hasher.finish()
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "some bits of the hash are as good as all"
    )]
    #[allow(
        clippy::indexing_slicing,
        reason = "a remainder is smaller than its divisor, and there is a shard"
    )]
    fn shard(&self, hash: u64) -> &Mutex<Shard<V>> {
        &self.shards[(hash >> 32) as usize % self.shards.len()]
    }
}

impl<V> std::fmt::Debug for CachingVerifier<V> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CachingVerifier")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

impl<V: Borrow<Verified>> Shard<V> {
    fn new() -> Self {
        Self {
            entries: HashTable::new(),
            hand: 0,
        }
    }

    fn find(&self, hash: u64, token: &str) -> Option<&Entry<V>> {
        self.entries
            .find(hash, |entry| entry.hash == hash)
            .filter(|entry| entry.token.as_ref() == token)
    }

    fn find_mut(&mut self, hash: u64, token: &str) -> Option<&mut Entry<V>> {
        self.entries
            .find_mut(hash, |entry| entry.hash == hash)
            .filter(|entry| entry.token.as_ref() == token)
    }

    fn insert(&mut self, entry: Entry<V>) {
        self.entries.insert_unique(entry.hash, entry, |entry| entry.hash);
    }

    fn remove(&mut self, hash: u64) -> Option<Entry<V>> {
        let entry = self.entries.find_entry(hash, |entry| entry.hash == hash).ok()?;
        Some(entry.remove().0)
    }

    /// Takes out what is dead of a few entries, the next ones in turn, so that the dead do not pile up.
    fn scavenge(&mut self, is_dead: impl Fn(&Entry<V>) -> bool) -> Vec<Entry<V>> {
        let (sample, hand) = self.next_sample();
        let dead: Vec<u64> = sample
            .into_iter()
            .filter(|entry| is_dead(entry))
            .map(|entry| entry.hash)
            .collect();
        self.hand = hand;
        dead.into_iter().filter_map(|hash| self.remove(hash)).collect()
    }

    /// Makes room: of a few entries, the one that dies first.
    fn evict(&mut self) -> Option<Entry<V>> {
        let (sample, _) = self.next_sample();
        let victim = sample.into_iter().min_by_key(|entry| {
            let verified: &Verified = entry.value.borrow();
            verified.expires_at
        })?;
        let hash = victim.hash;
        self.remove(hash)
    }

    /// The entries of the next slots, and the slot after them.
    fn next_sample(&self) -> (Vec<&Entry<V>>, usize) {
        let slots = self.entries.num_buckets();
        let mut sample = Vec::with_capacity(SAMPLE);
        let mut hand = self.hand;
        for _ in 0..slots.min(MAX_SLOTS_SEEN) {
            hand = if hand + 1 < slots { hand + 1 } else { 0 };
            sample.extend(self.entries.get_bucket(hand));
            if sample.len() == SAMPLE {
                break;
            }
        }
        (sample, hand)
    }
}
