//! Signers and tokens for the tests.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "test support"
)]

use std::sync::OnceLock;

use agentapi_core::claims::{ClaimRules, ClaimRulesSpec};
use agentapi_core::jwks::KeySet;
use agentapi_core::jwt::{IssuerPolicy, Verifier};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://issuer.example";
pub const AUDIENCE: &str = "https://gateway.example/mcp/acme/main";
pub const NOW: i64 = 1_800_000_000;
pub const LEEWAY_S: i64 = 30;
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key of some kind.
pub enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str, &'static str),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    pub fn p256() -> Self {
        Self::Ec(
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            "P-256",
            "ES256",
        )
    }

    pub fn p384() -> Self {
        Self::Ec(
            EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            "P-384",
            "ES384",
        )
    }

    pub fn ed25519() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let encoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &SystemRandom::new(), message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec(key, ..) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
                .as_ref()
                .to_vec(),
        }
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(key) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": encode(public.n), "e": encode(public.e)})
            }
            Self::Ec(key, curve, _) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key())}),
            Self::Secret(secret) => json!({"kty": "oct", "k": encode(secret)}),
        };
        jwk["kid"] = json!(kid);
        jwk
    }

    /// A compact JWS over these texts as they are.
    pub fn token_of(&self, alg: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(alg, message.as_bytes());
        format!("{message}.{}", encode(signature))
    }

    pub fn token(&self, alg: &str, kid: &str, claims: &Value) -> String {
        self.token_of(
            alg,
            &json!({"alg": alg, "kid": kid, "typ": "JWT"}).to_string(),
            &claims.to_string(),
        )
    }
}

/// One RSA key for all tests of a binary, as making one takes long.
pub fn rsa() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(|| Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
}

pub fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

pub fn rules(spec: ClaimRulesSpec) -> ClaimRules {
    ClaimRules::new(spec).unwrap()
}

pub fn policy(issuer: &str) -> IssuerPolicy {
    IssuerPolicy::new(issuer, vec![], None, ClaimRules::default()).unwrap()
}

pub fn verifier_of(policies: Vec<IssuerPolicy>) -> Verifier {
    Verifier::new(policies, LEEWAY_S).unwrap()
}

/// A verifier that trusts these keys for [`ISSUER`].
pub fn verifier(keys: &[Value]) -> Verifier {
    let verifier = verifier_of(vec![policy(ISSUER)]);
    verifier
        .replace_keys(ISSUER, KeySet::parse(&jwks(keys)).unwrap())
        .unwrap();
    verifier
}

pub fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "user-1", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, "jti": "t-1"})
}

/// [`claims`] with one member set, or taken away by `null`.
pub fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}
