//! Sealed values: AES-256-GCM under a keyring (NIST SP 800-38D).
//!
//! Format: version (1 byte), length of the key id (1 byte), key id, nonce (12 bytes), ciphertext, tag (16 bytes).
//! Version, length and key id are authenticated in front of the caller's associated data. Under version 1 the
//! plaintext is the caller's; under version 2 eight bytes precede it: the Unix second, big-endian and signed, from
//! which on the value opens no more. Neither opens as the other.
//!
//! Invariants: every nonce is random, and a key seals at most [`SEALS_PER_KEY`] values per loaded keyring, which
//! keeps the chance of a repeated nonce below 2^-32; a value opens under the key that its id names and under
//! no other; every failure to open is the same error and the same work, the decryption of what a value of that length
//! holds, even of a text that is no sealed value; key bytes are wiped when they are dropped and never printed.

mod parts;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use parts::{EXPIRING, EXPIRY_BYTES, PLAIN, Parts, TAG_BYTES};
use text::{KeyBytes, check_key_id, parse_text, random_key, to_text};

pub use text::KeyringError;

/// The longest plaintext, in bytes.
pub const MAX_PLAINTEXT_BYTES: usize = 1024 * 1024;
/// How many values one key seals (SP 800-38D section 8.3).
pub const SEALS_PER_KEY: u64 = 1 << 32;
/// The longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 32;
/// The most keys of one keyring.
pub const MAX_KEYS: usize = 64;
/// More than any sealed value has as text.
const MAX_TEXT_BYTES: usize = 2 * MAX_PLAINTEXT_BYTES;

/// Why a value is not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Changed, cut, expired, sealed for another place, by another key, or never sealed at all.
    #[error("the sealed value cannot be opened")]
    CannotOpen,
    /// More than [`MAX_PLAINTEXT_BYTES`].
    #[error("the value is larger than 1 MiB")]
    TooLarge,
    /// The active key has sealed [`SEALS_PER_KEY`] values.
    #[error("the active key has sealed as much as it may; rotate the keyring")]
    KeyExhausted,
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    NoRandomness,
}

struct SealingKey {
    key_id: Box<[u8]>,
    cipher: LessSafeKey,
    seals: AtomicU64,
}

/// The keys of a deployment: the active one seals, all of them open.
pub struct Keyring {
    active_id: String,
    active: SealingKey,
    retired: BTreeMap<String, SealingKey>,
}

impl Keyring {
    /// Parses the text form, `{"active":"k1","keys":{"k1":"<32 bytes in base64url>"}}`.
    ///
    /// # Errors
    /// Any [`KeyringError`] that speaks of the text.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let (active_id, keys) = parse_text(text)?;
        let mut retired = keys
            .iter()
            .map(|(id, key)| Ok((id.clone(), SealingKey::new(id, key)?)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let active = retired.remove(&active_id).ok_or(KeyringError::NoActiveKey)?;
        Ok(Self {
            active_id,
            active,
            retired,
        })
    }

    /// The text form of a keyring with one new key.
    ///
    /// # Errors
    /// [`KeyringError::BadKeyId`] or [`KeyringError::NoRandomness`].
    pub fn generate(key_id: &str) -> Result<Zeroizing<String>, KeyringError> {
        check_key_id(key_id)?;
        Ok(to_text(
            key_id,
            &BTreeMap::from([(key_id.to_owned(), random_key()?)]),
        ))
    }

    /// The text form of the keyring `text` with a new active key; the others stay to open what they sealed.
    ///
    /// # Errors
    /// Any [`KeyringError`].
    pub fn rotate(text: &str, key_id: &str) -> Result<Zeroizing<String>, KeyringError> {
        check_key_id(key_id)?;
        let (_, mut keys) = parse_text(text)?;
        if keys.contains_key(key_id) {
            return Err(KeyringError::DuplicateKeyId);
        }
        if keys.len() >= MAX_KEYS {
            return Err(KeyringError::TooManyKeys);
        }
        keys.insert(key_id.to_owned(), random_key()?);
        Ok(to_text(key_id, &keys))
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn active_key_id(&self) -> &str {
        &self.active_id
    }

    /// The ids of all keys, sorted.
    #[must_use]
    pub fn key_ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self
            .retired
            .keys()
            .map(String::as_str)
            .chain([self.active_id.as_str()])
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Seals `plaintext` under the active key; it opens with the same `aad` alone.
    ///
    /// # Errors
    /// [`SealError::TooLarge`], [`SealError::KeyExhausted`] or [`SealError::NoRandomness`].
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        if plaintext.len() > MAX_PLAINTEXT_BYTES {
            return Err(SealError::TooLarge);
        }
        self.active.seal(PLAIN, &[], plaintext, aad)
    }

    /// Seals `plaintext` under the active key; until `expires_at` (Unix seconds) it opens by
    /// [`Self::open_unexpired`] with the same `aad`.
    ///
    /// # Errors
    /// Those of [`Self::seal`].
    pub fn seal_until(&self, plaintext: &[u8], aad: &[u8], expires_at: i64) -> Result<Vec<u8>, SealError> {
        if plaintext.len() > MAX_PLAINTEXT_BYTES {
            return Err(SealError::TooLarge);
        }
        self.active
            .seal(EXPIRING, &expires_at.to_be_bytes(), plaintext, aad)
    }

    /// As [`Self::seal_until`], in base64url without padding, for a header or a JSON string.
    ///
    /// # Errors
    /// Those of [`Self::seal`].
    pub fn seal_text_until(
        &self,
        plaintext: &[u8],
        aad: &[u8],
        expires_at: i64,
    ) -> Result<String, SealError> {
        Ok(URL_SAFE_NO_PAD.encode(self.seal_until(plaintext, aad, expires_at)?))
    }

    /// Opens a sealed value.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`], whatever the cause.
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open_version(PLAIN, sealed, aad)
    }

    /// Opens a value of [`Self::seal_until`] that has not expired at `now`.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`], whatever the cause.
    pub fn open_unexpired(
        &self,
        sealed: &[u8],
        aad: &[u8],
        now: i64,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let mut opened = self.open_version(EXPIRING, sealed, aad)?;
        let expires_at = opened.first_chunk().copied().map(i64::from_be_bytes);
        if expires_at.is_none_or(|expires_at| now >= expires_at) {
            return Err(SealError::CannotOpen);
        }
        opened.drain(..EXPIRY_BYTES);
        Ok(opened)
    }

    /// Opens a value of [`Self::seal_text_until`] that has not expired at `now`.
    ///
    /// # Errors
    /// [`SealError::CannotOpen`], whatever the cause.
    pub fn open_text_unexpired(
        &self,
        sealed: &str,
        aad: &[u8],
        now: i64,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if let Ok(sealed) = URL_SAFE_NO_PAD.decode(sealed) {
            return self.open_unexpired(&sealed, aad, now);
        }
        // Where the decoder has stopped is no matter: a text of that length is decoded whole.
        let symbols = sealed.len().min(MAX_TEXT_BYTES);
        let stand_in = "A".repeat(symbols - usize::from(symbols % 4 == 1));
        let stand_in = URL_SAFE_NO_PAD.decode(stand_in).unwrap_or_default();
        Err(self.refuse(&stand_in, aad))
    }

    fn open_version(&self, version: u8, sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let Some(parts) = Parts::split(version, sealed) else {
            return Err(self.refuse(sealed, aad));
        };
        match self.key(parts.key_id) {
            Some(key) => key.open(&parts, aad),
            None => Err(self.refuse(sealed, aad)),
        }
    }

    fn key(&self, key_id: &[u8]) -> Option<&SealingKey> {
        if key_id == self.active.key_id.as_ref() {
            return Some(&self.active);
        }
        self.retired.get(std::str::from_utf8(key_id).ok()?)
    }

    /// Does for what cannot be decrypted the work of a decryption that fails.
    fn refuse(&self, sealed: &[u8], aad: &[u8]) -> SealError {
        drop(
            self.active
                .open(&Parts::stand_in(sealed, self.active.key_id.len()), aad),
        );
        SealError::CannotOpen
    }

    /// Opens a sealed value and seals it again under the active key, with a fresh nonce.
    ///
    /// # Errors
    /// Those of [`Self::open`] and [`Self::seal`].
    pub fn reseal(&self, sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal(&self.open(sealed, aad)?, aad)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keyring")
            .field("key_ids", &self.key_ids())
            .finish_non_exhaustive()
    }
}

impl SealingKey {
    fn new(key_id: &str, key: &KeyBytes) -> Result<Self, KeyringError> {
        let cipher = UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| KeyringError::BadKey)?;
        Ok(Self {
            key_id: key_id.as_bytes().into(),
            cipher: LessSafeKey::new(cipher),
            seals: AtomicU64::new(0),
        })
    }

    /// Seals `head` and `plaintext` as one.
    fn seal(&self, version: u8, head: &[u8], plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        if self.seals.fetch_add(1, Ordering::Relaxed) >= SEALS_PER_KEY {
            return Err(SealError::KeyExhausted);
        }
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let id_len = u8::try_from(self.key_id.len()).map_err(|_| SealError::TooLarge)?;
        let start = 2 + self.key_id.len() + NONCE_LEN;
        let mut sealed = Vec::with_capacity(start + head.len() + plaintext.len() + TAG_BYTES);
        sealed.extend_from_slice(&[version, id_len]);
        sealed.extend_from_slice(&self.key_id);
        let aad = Aad::from([sealed.as_slice(), aad].concat());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(head);
        sealed.extend_from_slice(plaintext);
        let body = sealed.get_mut(start..).ok_or(SealError::TooLarge)?;
        let tag = self
            .cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, body)
            .map_err(|_| SealError::TooLarge)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    fn open(&self, parts: &Parts<'_>, aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        #[cfg(test)]
        tests::DECRYPTED.with_borrow_mut(|decrypted| decrypted.push(parts.ciphertext.len()));
        let mut plaintext = Zeroizing::new(vec![0; parts.ciphertext.len()]);
        let aad = Aad::from([parts.prefix, aad].concat());
        self.cipher
            .open_separate_gather(
                Nonce::assume_unique_for_key(*parts.nonce),
                aad,
                parts.ciphertext,
                parts.tag,
                &mut plaintext,
            )
            .map_err(|_| SealError::CannotOpen)?;
        Ok(plaintext)
    }
}

#[cfg(test)]
mod tests;
