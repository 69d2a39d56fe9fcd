//! Key sets of issuers (RFC 7517), reduced to what may verify a signature.
//!
//! Invariants: a [`VerifyingKey`] knows the exact algorithms it may verify and is useless for any other; no
//! symmetric or private key ever becomes one. A key that is not understood, too weak, too large or meant for
//! something else is skipped, as RFC 7517 section 5 asks; a set that is ambiguous or over its limits is refused.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};

use crate::decode_base64url;
use crate::json::{Json, Object};
use crate::sync::{AtomicBool, Ordering};

/// The longest key set that is read, in bytes.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;
/// The most entries a key set may have, used or not.
pub const MAX_KEYS: usize = 100;
/// The longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 255;

const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;
/// Larger public exponents only make a verification slow; the back end refuses them as well.
const MAX_RSA_EXPONENT_BITS: u32 = 33;

/// Why a key set is refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// More than [`MAX_KEY_SET_BYTES`].
    #[error("the key set is larger than 256 KiB")]
    TooLarge,
    /// Not a JSON object with an array of objects under `keys`.
    #[error("the key set is not a JSON object with an array of keys")]
    Malformed,
    /// More than [`MAX_KEYS`] entries.
    #[error("the key set has more than 100 keys")]
    TooManyKeys,
    /// Two usable keys share a `kid`, so a token would not say which one it means.
    #[error("two keys of the key set have the same key id")]
    DuplicateKeyId,
    /// Nothing in the set may verify a signature.
    #[error("the key set has no usable key")]
    NoUsableKey,
    /// No policy names the issuer.
    #[error("the issuer is not configured")]
    UnknownIssuer,
    /// The issuer is trusted by a shared secret and by nothing else.
    #[error("the issuer is configured with a shared secret and takes no key set")]
    SharedSecretIssuer,
}

/// A signature algorithm of RFC 7518 section 3, RFC 8037 or RFC 9864.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519 under its first name.
    EdDsa,
    /// Ed25519 under the name that RFC 9864 gives it.
    Ed25519,
    /// HMAC with SHA-256; never the algorithm of a [`VerifyingKey`].
    Hs256,
}

impl Algorithm {
    /// The algorithm of that JOSE name. `none` has none.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            "Ed25519" => Self::Ed25519,
            "HS256" => Self::Hs256,
            _ => return None,
        })
    }

    /// The JOSE name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Ed25519 => "Ed25519",
            Self::Hs256 => "HS256",
        }
    }
}

const RSA_ALGORITHMS: [(Algorithm, &RsaParameters); 4] = [
    (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
];

/// One public key and the algorithms it may verify.
pub struct VerifyingKey {
    key_id: Option<Arc<str>>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
    /// Set when the key has left its issuer's set; what it verified is then no longer believed.
    retired: AtomicBool,
}

impl VerifyingKey {
    /// The `kid` of the key.
    #[must_use]
    pub fn key_id(&self) -> Option<&Arc<str>> {
        self.key_id.as_ref()
    }

    /// What the key may verify.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Whether the key may verify `algorithm`.
    #[must_use]
    pub fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|allowed| allowed == algorithm)
    }

    /// Whether `signature` over `message` was made by the owner of the key. False for an algorithm that the
    /// key may not verify.
    #[must_use]
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.verifiers
            .iter()
            .find(|(allowed, _)| *allowed == algorithm)
            .is_some_and(|(_, key)| key.verify_sig(message, signature).is_ok())
    }

    /// Whether the key has left its issuer's set.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The same material under the same id for the same algorithms.
    fn is_same_as(&self, other: &Self) -> bool {
        self.key_id == other.key_id
            && self.verifiers.len() == other.verifiers.len()
            && self.verifiers.iter().zip(&other.verifiers).all(
                |((algorithm, key), (other_algorithm, other_key))| {
                    algorithm == other_algorithm && key.as_ref() == other_key.as_ref()
                },
            )
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VerifyingKey")
            .field("key_id", &self.key_id)
            .field("algorithms", &self.algorithms().collect::<Vec<_>>())
            .field("retired", &self.is_retired())
            .finish_non_exhaustive()
    }
}

/// The usable keys of one issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Arc<VerifyingKey>>,
}

impl KeySet {
    /// Parses a JWK set (RFC 7517 section 5).
    ///
    /// # Errors
    /// Any [`KeySetError`] that speaks of the key set itself.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document = Object::parse(text).map_err(|_| KeySetError::Malformed)?;
        let Some(Json::Array(entries)) = document.get("keys") else {
            return Err(KeySetError::Malformed);
        };
        if entries.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys);
        }
        let mut keys: Vec<Arc<VerifyingKey>> = Vec::new();
        for entry in entries {
            let jwk = entry.as_object().ok_or(KeySetError::Malformed)?;
            if let Some(key) = parse_key(jwk) {
                if key.key_id.is_some() && keys.iter().any(|known| known.key_id == key.key_id) {
                    return Err(KeySetError::DuplicateKeyId);
                }
                keys.push(Arc::new(key));
            }
        }
        if keys.is_empty() {
            Err(KeySetError::NoUsableKey)
        } else {
            Ok(Self { keys })
        }
    }

    /// How many keys may verify a signature.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key may verify a signature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The usable keys, in the order of the document.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<VerifyingKey>> {
        self.keys.iter()
    }

    /// The key of that id.
    #[must_use]
    pub fn get(&self, key_id: &str) -> Option<&Arc<VerifyingKey>> {
        self.keys.iter().find(|key| key.key_id.as_deref() == Some(key_id))
    }

    /// Takes the place of `previous`: a key that stays keeps its identity, one that has gone is retired.
    /// Returns whether any was retired.
    pub(crate) fn succeed(&mut self, previous: &Self) -> bool {
        let mut any_retired = false;
        for old in &previous.keys {
            if let Some(kept) = self.keys.iter_mut().find(|key| key.is_same_as(old)) {
                *kept = Arc::clone(old);
            } else {
                old.retired.store(true, Ordering::Release);
                any_retired = true;
            }
        }
        any_retired
    }
}

/// Reads one JWK; `None` for every key that must not be used.
fn parse_key(jwk: &Object<'_>) -> Option<VerifyingKey> {
    let is_private = jwk.get("d").is_some();
    let for_signatures = jwk.get("use").is_none_or(|usage| usage.as_str() == Some("sig"));
    let may_verify = match jwk.get("key_ops") {
        None => true,
        Some(Json::Array(operations)) => operations
            .iter()
            .any(|operation| operation.as_str() == Some("verify")),
        Some(_) => false,
    };
    if is_private || !for_signatures || !may_verify {
        return None;
    }
    let key_id = match jwk.get("kid") {
        None => None,
        Some(value) => Some(Arc::from(
            value.as_str().filter(|kid| kid.len() <= MAX_KEY_ID_BYTES)?,
        )),
    };
    let named = match jwk.get("alg") {
        None => None,
        Some(value) => Some(Algorithm::from_name(value.as_str()?)?),
    };
    let text = |name| jwk.get(name).and_then(Json::as_str);
    let mut verifiers = match (text("kty")?, text("crv")) {
        ("RSA", _) => rsa_verifiers(text("n")?, text("e")?, named)?,
        ("EC", Some("P-256")) => {
            let point = ec_point(text("x")?, text("y")?, 32)?;
            vec![(
                Algorithm::Es256,
                parsed(&signature::ECDSA_P256_SHA256_FIXED, &point)?,
            )]
        }
        ("EC", Some("P-384")) => {
            let point = ec_point(text("x")?, text("y")?, 48)?;
            vec![(
                Algorithm::Es384,
                parsed(&signature::ECDSA_P384_SHA384_FIXED, &point)?,
            )]
        }
        ("OKP", Some("Ed25519")) => {
            let point = decode_base64url(text("x")?).filter(|point| point.len() == 32)?;
            let key = parsed(&signature::ED25519, &point)?;
            vec![(Algorithm::EdDsa, key.clone()), (Algorithm::Ed25519, key)]
        }
        _ => return None,
    };
    verifiers.retain(|(algorithm, _)| named.is_none_or(|named| named == *algorithm));
    if verifiers.is_empty() {
        return None;
    }
    Some(VerifyingKey {
        key_id,
        verifiers,
        retired: AtomicBool::new(false),
    })
}

fn parsed(algorithm: &'static dyn VerificationAlgorithm, point: &[u8]) -> Option<ParsedPublicKey> {
    ParsedPublicKey::new(algorithm, point).ok()
}

/// The uncompressed point of RFC 5480 section 2.2; both coordinates have the full size (RFC 7518, 6.2.1.2).
fn ec_point(x: &str, y: &str, size: usize) -> Option<Vec<u8>> {
    let x = decode_base64url(x).filter(|x| x.len() == size)?;
    let y = decode_base64url(y).filter(|y| y.len() == size)?;
    Some([&[4], x.as_slice(), y.as_slice()].concat())
}

fn rsa_verifiers(n: &str, e: &str, named: Option<Algorithm>) -> Option<Vec<(Algorithm, ParsedPublicKey)>> {
    let modulus = decode_base64url(n)?;
    let exponent = decode_base64url(e)?;
    let (n, e) = (without_leading_zeros(&modulus), without_leading_zeros(&exponent));
    let modulus_bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&modulus_bits) || !is_odd(n) || !is_odd(e) || e.len() > 8 {
        return None;
    }
    let exponent = e.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    if exponent < 3 || u64::BITS - exponent.leading_zeros() > MAX_RSA_EXPONENT_BITS {
        return None;
    }
    let components = RsaPublicKeyComponents { n, e };
    RSA_ALGORITHMS
        .iter()
        .filter(|(algorithm, _)| named.is_none_or(|named| named == *algorithm))
        .map(|(algorithm, parameters)| Some((*algorithm, components.to_parsed_public_key(parameters).ok()?)))
        .collect()
}

/// Some issuers write the sign byte of a big integer.
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
