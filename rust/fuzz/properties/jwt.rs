//! What holds of tokens for any bytes. Shared by the fuzz target and the replay of its corpus.
//!
//! The first byte says what the rest is: a token as it came, or a header and claims (cut at the first line feed)
//! that are signed here, so that the fuzzer gets behind the signature.

use std::sync::LazyLock;

use agentapi_core::claims::{ClaimRules, ClaimRulesSpec};
use agentapi_core::jwks::KeySet;
use agentapi_core::jwt::{IssuerPolicy, TokenError, Verifier};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW: i64 = 1_800_000_000;
const LEEWAY_S: i64 = 30;
const AUDIENCE: &str = "aud";
/// The key of RFC 8037 appendix A.2 and the one of RFC 7515 appendix A.3.
const KEYS: &[u8] = br#"{"keys":[
    {"kty":"OKP","crv":"Ed25519","kid":"e","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty":"EC","crv":"P-256","kid":"p","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
     "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let rules = || {
        let pointer = |text: &str| Some(text.to_owned());
        ClaimRules::new(ClaimRulesSpec {
            organization_pointer: pointer("/org/0"),
            role_pointer: pointer("/roles"),
            default_role: Some("viewer".to_owned()),
            email_pointer: pointer("/email"),
            scope_pointer: pointer("/scope"),
            ..ClaimRulesSpec::default()
        })
        .expect("good rules")
    };
    let policy = |issuer, secret: Option<&[u8]>| {
        IssuerPolicy::new(
            issuer,
            vec![],
            secret.map(|secret| secret.to_vec().into()),
            rules(),
        )
        .expect("a good policy")
    };
    let verifier =
        Verifier::new([policy("hs", Some(SECRET)), policy("ks", None)], LEEWAY_S).expect("good issuers");
    verifier
        .replace_keys("ks", KeySet::parse(KEYS).expect("a good key set"))
        .expect("a known issuer");
    verifier
});

pub fn check(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let token = if how & 1 == 0 {
        let Ok(token) = std::str::from_utf8(rest) else {
            return;
        };
        token.to_owned()
    } else {
        let at = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let (header, claims) = rest.split_at(at);
        sign(header, claims.get(1..).unwrap_or_default())
    };
    let Ok(verified) = VERIFIER.verify(&token, AUDIENCE, NOW) else {
        return;
    };
    let parts: Vec<Vec<u8>> = token
        .split('.')
        .map(|part| {
            URL_SAFE_NO_PAD
                .decode(part)
                .expect("what is accepted is base64url")
        })
        .collect();
    let [header, claims, signature] = parts.try_into().expect("what is accepted has three parts");
    let header: Value = serde_json::from_slice(&header).expect("the header is JSON");
    let claims: Value = serde_json::from_slice(&claims).expect("the claims are JSON");
    assert_eq!(claims["iss"], verified.issuer.as_ref());
    assert_eq!(claims["sub"], verified.subject.as_str());
    assert!(verified.audiences.iter().any(|audience| audience == AUDIENCE));
    assert!(verified.expires_at + LEEWAY_S > NOW);
    assert!(header.get("crit").is_none());
    match verified.issuer.as_ref() {
        "hs" => {
            assert_eq!(header["alg"], "HS256");
            let (message, _) = token.rsplit_once('.').expect("three parts");
            assert_eq!(hmac_of(message), signature);
        }
        _ => assert!(verified.key_id().is_some()),
    }
    let later = NOW + LEEWAY_S + verified.expires_at;
    let refused = |token: &str, audience, now| VERIFIER.verify(token, audience, now).expect_err("refused");
    assert_eq!(refused(&token, AUDIENCE, later), TokenError::Expired);
    assert_eq!(refused(&token, "", NOW), TokenError::WrongAudience);
    let forged = format!("{token}AAAA");
    assert!(matches!(
        refused(&forged, AUDIENCE, NOW),
        TokenError::BadSignature | TokenError::Malformed | TokenError::TooLarge
    ));
}

fn sign(header: &[u8], claims: &[u8]) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = URL_SAFE_NO_PAD.encode(hmac_of(&message));
    format!("{message}.{signature}")
}

fn hmac_of(message: &str) -> Vec<u8> {
    static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, SECRET));
    hmac::sign(&KEY, message.as_bytes()).as_ref().to_vec()
}
