//! A sealed value as bytes.

use aws_lc_rs::aead::NONCE_LEN;

use super::MAX_PLAINTEXT_BYTES;

/// The version of values without an expiry.
pub(super) const PLAIN: u8 = 1;
/// The version of values with one in front of the plaintext.
pub(super) const EXPIRING: u8 = 2;
pub(super) const EXPIRY_BYTES: usize = 8;
pub(super) const TAG_BYTES: usize = 16;
const MAX_CIPHERTEXT_BYTES: usize = EXPIRY_BYTES + MAX_PLAINTEXT_BYTES;

/// A sealed value, taken apart.
pub(super) struct Parts<'a> {
    pub(super) prefix: &'a [u8],
    pub(super) key_id: &'a [u8],
    pub(super) nonce: &'a [u8; NONCE_LEN],
    pub(super) ciphertext: &'a [u8],
    pub(super) tag: &'a [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    pub(super) fn split(expected: u8, sealed: &'a [u8]) -> Option<Self> {
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
        (ciphertext.len() <= MAX_CIPHERTEXT_BYTES).then_some(Self {
            prefix,
            key_id,
            nonce,
            ciphertext,
            tag,
        })
    }

    /// What is decrypted in the place of a value that cannot be taken apart or names no key: as much as if it named
    /// one whose id has `id_len` bytes. The answer is refused whatever comes of it.
    pub(super) fn stand_in(sealed: &'a [u8], id_len: usize) -> Self {
        let start = 2 + id_len + NONCE_LEN;
        let end = sealed
            .len()
            .saturating_sub(TAG_BYTES)
            .min(start + MAX_CIPHERTEXT_BYTES);
        Self {
            prefix: sealed.get(..2 + id_len).unwrap_or(sealed),
            key_id: &[],
            nonce: &[0; NONCE_LEN],
            ciphertext: sealed.get(start..end).unwrap_or_default(),
            tag: &[0; TAG_BYTES],
        }
    }
}
