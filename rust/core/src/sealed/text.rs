//! A keyring as text.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::{MAX_KEY_ID_BYTES, MAX_KEYS};
use crate::json::{Json, Object};

const KEY_BYTES: usize = 32;

pub(super) type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

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

pub(super) fn check_key_id(key_id: &str) -> Result<(), KeyringError> {
    let fits = (1..=MAX_KEY_ID_BYTES).contains(&key_id.len())
        && key_id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits { Ok(()) } else { Err(KeyringError::BadKeyId) }
}

pub(super) fn random_key() -> Result<KeyBytes, KeyringError> {
    let mut key = KeyBytes::default();
    rand::fill(key.as_mut_slice()).map_err(|_| KeyringError::NoRandomness)?;
    Ok(key)
}

pub(super) fn parse_text(text: &str) -> Result<(String, BTreeMap<String, KeyBytes>), KeyringError> {
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
pub(super) fn to_text(active: &str, keys: &BTreeMap<String, KeyBytes>) -> Zeroizing<String> {
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
