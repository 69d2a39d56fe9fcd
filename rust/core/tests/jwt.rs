//! Which tokens are believed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use agentapi_core::claims::ClaimRules;
use agentapi_core::jwks::{KeySet, KeySetError};
use agentapi_core::jwt::{IssuerPolicy, PolicyError, TokenError, Verified, Verifier};
use common::{
    AUDIENCE, ISSUER, LEEWAY_S, NOW, SECRET, Signer, claims, claims_with, encode, jwks, policy, rsa,
    verifier, verifier_of,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use zeroize::Zeroizing;

fn reason(result: Result<Verified, TokenError>) -> &'static str {
    result.map_or_else(|error| error.reason(), |_| "accepted")
}

fn verify_with(signer: &Signer, alg: &str, claims: &Value) -> Result<Verified, TokenError> {
    verifier(&[signer.jwk("k")]).verify(&signer.token(alg, "k", claims), AUDIENCE, NOW)
}

fn secret_policy(issuer: &str) -> IssuerPolicy {
    IssuerPolicy::new(
        issuer,
        vec![],
        Some(Zeroizing::new(SECRET.to_vec())),
        ClaimRules::default(),
    )
    .unwrap()
}

#[test]
fn accepts_every_algorithm_of_its_keys() {
    for alg in ["RS256", "RS384", "RS512", "PS256"] {
        assert_eq!(reason(verify_with(rsa(), alg, &claims())), "accepted", "{alg}");
    }
    assert_eq!(
        reason(verify_with(&Signer::p256(), "ES256", &claims())),
        "accepted"
    );
    assert_eq!(
        reason(verify_with(&Signer::p384(), "ES384", &claims())),
        "accepted"
    );
    assert_eq!(
        reason(verify_with(&Signer::ed25519(), "EdDSA", &claims())),
        "accepted"
    );
}

#[test]
fn says_what_the_token_proves() {
    let verified = verify_with(
        &Signer::p256(),
        "ES256",
        &claims_with("aud", json!(["x", AUDIENCE])),
    )
    .unwrap();
    assert_eq!(verified.issuer.as_ref(), ISSUER);
    assert_eq!(verified.subject, "user-1");
    assert_eq!(*verified.audiences, ["x", AUDIENCE]);
    assert_eq!(verified.expires_at, NOW + 600);
    assert_eq!(verified.token_id.as_deref(), Some("t-1"));
    assert_eq!(verified.key_id(), Some("k"));
    assert_eq!(
        format!("{verified:?}"),
        format!("Verified {{ issuer: {ISSUER:?}, .. }}")
    );
}

#[test]
fn a_session_is_told_of_where_the_claim_is_text() {
    let session = |claim: Value| {
        verify_with(&Signer::p256(), "ES256", &claims_with("sid", claim))
            .unwrap()
            .session_id
    };
    assert_eq!(session(json!("s-1")), Some("s-1".to_owned()));
    for other in [json!(7), json!(["s-1"]), json!(null), json!(""), json!("s\n1")] {
        assert_eq!(session(other), None);
    }
}

#[test]
fn a_shared_secret_issuer_accepts_its_secret_and_nothing_else() {
    let verifier = verifier_of(vec![secret_policy(ISSUER)]);
    let good = Signer::Secret(SECRET.to_vec());
    let check = |token: String| reason(verifier.verify(&token, AUDIENCE, NOW));
    assert_eq!(check(good.token("HS256", "any", &claims())), "accepted");
    assert_eq!(
        check(good.token_of("HS256", r#"{"alg":"HS256"}"#, &claims().to_string())),
        "accepted"
    );
    assert_eq!(
        check(Signer::Secret(vec![b'x'; 32]).token("HS256", "k", &claims())),
        "bad_signature"
    );
    assert_eq!(
        check(rsa().token("RS256", "k", &claims())),
        "unsupported_algorithm"
    );
    assert_eq!(
        check(good.token("HS384", "k", &claims())),
        "unsupported_algorithm"
    );
    let set = KeySet::parse(&jwks(&[rsa().jwk("k")])).unwrap();
    assert_eq!(
        verifier.replace_keys(ISSUER, set),
        Err(KeySetError::SharedSecretIssuer)
    );
}

#[test]
fn policies_are_checked() {
    let secret = |len| Some(Zeroizing::new(vec![7; len]));
    let rules = ClaimRules::default;
    assert_eq!(
        IssuerPolicy::new("", vec![], None, rules()).err(),
        Some(PolicyError::EmptyName)
    );
    assert_eq!(
        IssuerPolicy::new("i", vec![String::new()], None, rules()).err(),
        Some(PolicyError::EmptyName)
    );
    assert_eq!(
        IssuerPolicy::new("i", vec![], secret(31), rules()).err(),
        Some(PolicyError::ShortSecret)
    );
    assert!(IssuerPolicy::new("i", vec![], secret(32), rules()).is_ok());
    let twice = [policy("i"), policy("i")];
    assert_eq!(
        Verifier::new(twice, 0).err(),
        Some(PolicyError::DuplicateIssuer("i".to_owned()))
    );
    assert_eq!(Verifier::new([], -1).err(), Some(PolicyError::BadLeeway));
    assert_eq!(Verifier::new([], 301).err(), Some(PolicyError::BadLeeway));
    let printed = format!("{:?}", secret_policy("i"));
    assert_eq!(printed, "IssuerPolicy { issuer: \"i\", .. }");
}

#[test]
fn the_key_decides_on_the_algorithm() {
    let ec = Signer::p256();
    let keys = [rsa().jwk("rsa"), ec.jwk("ec")];
    let check = |token: String| reason(verifier(&keys).verify(&token, AUDIENCE, NOW));
    let public_key = rsa().jwk("rsa").to_string().into_bytes();
    let confused = Signer::Secret(public_key).token("HS256", "rsa", &claims());
    assert_eq!(check(confused), "unsupported_algorithm");
    assert_eq!(
        check(ec.token("ES256", "rsa", &claims())),
        "unsupported_algorithm"
    );
    assert_eq!(
        check(rsa().token("RS256", "ec", &claims())),
        "unsupported_algorithm"
    );
    let unsigned = format!(
        "{}.{}.",
        encode(r#"{"alg":"none","kid":"rsa"}"#),
        encode(claims().to_string())
    );
    assert_eq!(check(unsigned), "unsupported_algorithm");
    for alg in ["None", "NONE", "nOnE", "", "HS512", "ES512", "RS1", "A256GCM"] {
        assert_eq!(
            check(rsa().token(alg, "rsa", &claims())),
            "unsupported_algorithm",
            "{alg}"
        );
    }
}

#[test]
fn keys_in_the_header_are_never_used() {
    let trusted = Signer::p256();
    let attacker = Signer::p256();
    let verifier = verifier(&[trusted.jwk("k")]);
    for extra in [
        json!({"jwk": attacker.jwk("k")}),
        json!({"jku": "https://attacker.example/jwks"}),
        json!({"x5u": "https://attacker.example/cert"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "k"});
        header
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let header = header.to_string();
        let forged = attacker.token_of("ES256", &header, &claims().to_string());
        let honest = trusted.token_of("ES256", &header, &claims().to_string());
        assert_eq!(reason(verifier.verify(&forged, AUDIENCE, NOW)), "bad_signature");
        assert_eq!(reason(verifier.verify(&honest, AUDIENCE, NOW)), "accepted");
    }
}

#[test]
fn a_key_belongs_to_its_issuer() {
    let (ours, theirs) = (Signer::p256(), Signer::p256());
    let verifier = verifier_of(vec![policy(ISSUER), policy("https://other.example")]);
    verifier
        .replace_keys(ISSUER, KeySet::parse(&jwks(&[ours.jwk("ours")])).unwrap())
        .unwrap();
    verifier
        .replace_keys(
            "https://other.example",
            KeySet::parse(&jwks(&[theirs.jwk("theirs")])).unwrap(),
        )
        .unwrap();
    let check = |token: String| reason(verifier.verify(&token, AUDIENCE, NOW));
    assert_eq!(check(theirs.token("ES256", "theirs", &claims())), "unknown_key");
    assert_eq!(check(theirs.token("ES256", "ours", &claims())), "bad_signature");
    assert_eq!(
        check(theirs.token(
            "ES256",
            "theirs",
            &claims_with("iss", json!("https://other.example"))
        )),
        "accepted"
    );
    assert_eq!(
        check(ours.token(
            "ES256",
            "ours",
            &claims_with("iss", json!("https://issuer.example/"))
        )),
        "unknown_issuer"
    );
}

#[test]
fn an_unknown_key_names_the_issuer_to_refresh() {
    let signer = Signer::p256();
    let empty = verifier_of(vec![policy(ISSUER)]);
    let token = signer.token("ES256", "new", &claims());
    let error = empty.verify(&token, AUDIENCE, NOW).unwrap_err();
    assert_eq!(
        (error.reason(), error.issuer_to_refresh().map(AsRef::as_ref)),
        ("no_key_set", Some(ISSUER))
    );
    let error = verifier(&[signer.jwk("old")])
        .verify(&token, AUDIENCE, NOW)
        .unwrap_err();
    assert_eq!(
        (error.reason(), error.issuer_to_refresh().map(AsRef::as_ref)),
        ("unknown_key", Some(ISSUER))
    );
}

#[test]
fn without_a_key_id_exactly_one_key_may_be_meant() {
    let (first, second, ed) = (Signer::p256(), Signer::p256(), Signer::ed25519());
    let anonymous = |signer: &Signer, alg: &str| {
        signer.token_of(alg, &json!({"alg": alg}).to_string(), &claims().to_string())
    };
    let one = verifier(&[first.jwk("a"), ed.jwk("b")]);
    assert_eq!(
        reason(one.verify(&anonymous(&first, "ES256"), AUDIENCE, NOW)),
        "accepted"
    );
    assert_eq!(
        reason(one.verify(&anonymous(&ed, "EdDSA"), AUDIENCE, NOW)),
        "accepted"
    );
    assert_eq!(
        reason(one.verify(&anonymous(rsa(), "RS256"), AUDIENCE, NOW)),
        "unknown_key"
    );
    let two = verifier(&[first.jwk("a"), second.jwk("b")]);
    let error = two
        .verify(&anonymous(&first, "ES256"), AUDIENCE, NOW)
        .unwrap_err();
    assert_eq!(error, TokenError::AmbiguousKey);
    assert_eq!(error.issuer_to_refresh(), None);
}

#[test]
fn the_header_is_read_strictly() {
    let signer = Signer::p256();
    let verifier = verifier(&[signer.jwk("k")]);
    let check = |header: &str| {
        let token = signer.token_of("ES256", header, &claims().to_string());
        reason(verifier.verify(&token, AUDIENCE, NOW))
    };
    for typ in [
        "JWT",
        "jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "Application/JWT",
    ] {
        assert_eq!(
            check(&json!({"alg": "ES256", "kid": "k", "typ": typ}).to_string()),
            "accepted",
            "{typ}"
        );
    }
    for typ in [
        json!("JOSE"),
        json!("logout+jwt"),
        json!("dpop+jwt"),
        json!(""),
        json!(1),
        Value::Null,
    ] {
        assert_eq!(
            check(&json!({"alg": "ES256", "kid": "k", "typ": typ}).to_string()),
            "malformed",
            "{typ}"
        );
    }
    for header in [
        r#"{"alg":"ES256","kid":"k","crit":["exp"]}"#,
        r#"{"alg":"ES256","kid":"k","crit":[]}"#,
        r#"{"alg":"none","alg":"ES256","kid":"k"}"#,
        r#"{"alg":"ES256","\u0061lg":"none","kid":"k"}"#,
        r#"{"alg":["ES256"],"kid":"k"}"#,
        r#"{"kid":"k"}"#,
        r#"{"alg":"ES256","kid":1}"#,
        r#"["ES256"]"#,
        r#"{"alg":"ES256","kid":"k"} x"#,
        "",
    ] {
        assert_eq!(check(header), "malformed", "{header}");
    }
}

#[test]
fn the_claims_are_read_strictly() {
    let signer = Signer::p256();
    let verifier = verifier(&[signer.jwk("k")]);
    let check = |claims: &str| {
        let token = signer.token_of("ES256", r#"{"alg":"ES256","kid":"k"}"#, claims);
        reason(verifier.verify(&token, AUDIENCE, NOW))
    };
    let good = claims().to_string();
    let with_tail = |tail: &str| format!("{},{tail}}}", &good[..good.len() - 1]);
    assert_eq!(check(&good), "accepted");
    assert_eq!(check(&with_tail(r#""sub":"admin""#)), "malformed");
    assert_eq!(check(&with_tail(r#""x":{"a":1,"a":2}"#)), "malformed");
    assert_eq!(
        check(&with_tail(&format!(
            r#""x":{}{}"#,
            "[".repeat(15),
            "]".repeat(15)
        ))),
        "accepted"
    );
    assert_eq!(
        check(&with_tail(&format!(
            r#""x":{}{}"#,
            "[".repeat(16),
            "]".repeat(16)
        ))),
        "malformed"
    );
    assert_eq!(check(&format!("[{good}]")), "malformed");
    assert_eq!(check(&format!("{good}x")), "malformed");
    assert_eq!(check(r#""text""#), "malformed");
}

#[test]
fn claims_are_held_to_their_types() {
    let signer = Signer::p256();
    let verifier = verifier(&[signer.jwk("k")]);
    let cases = [
        ("iss", Value::Null, "missing_claim"),
        ("iss", json!([ISSUER]), "bad_claim"),
        ("sub", Value::Null, "missing_claim"),
        ("sub", json!(""), "bad_claim"),
        ("sub", json!(7), "bad_claim"),
        ("sub", json!("nul\0"), "bad_claim"),
        ("sub", json!("é".repeat(255)), "accepted"),
        ("sub", json!("é".repeat(256)), "bad_claim"),
        ("aud", Value::Null, "missing_claim"),
        ("aud", json!([]), "wrong_audience"),
        ("aud", json!([AUDIENCE, 7]), "bad_claim"),
        ("aud", json!({}), "bad_claim"),
        (
            "aud",
            json!("https://gateway.example/mcp/acme/MAIN"),
            "wrong_audience",
        ),
        ("exp", Value::Null, "missing_claim"),
        ("exp", json!("1900000000"), "bad_claim"),
        ("exp", json!(true), "bad_claim"),
        ("exp", json!(1e300), "bad_claim"),
        ("exp", json!(i64::MAX), "bad_claim"),
        ("exp", json!(u64::MAX), "bad_claim"),
        ("exp", json!(-1), "expired"),
        ("nbf", json!("0"), "bad_claim"),
        ("nbf", json!(-1), "accepted"),
        ("iat", json!([]), "bad_claim"),
        ("iat", json!(1.5), "accepted"),
        ("jti", json!(7), "bad_claim"),
        ("jti", json!("j".repeat(256)), "bad_claim"),
    ];
    for (name, value, expected) in cases {
        let token = signer.token("ES256", "k", &claims_with(name, value.clone()));
        assert_eq!(
            reason(verifier.verify(&token, AUDIENCE, NOW)),
            expected,
            "{name}: {value}"
        );
    }
}

#[test]
fn time_is_judged_with_leeway() {
    let at = |name: &str, value: Value| {
        reason(verify_with(
            &Signer::ed25519(),
            "EdDSA",
            &claims_with(name, value),
        ))
    };
    assert_eq!(at("exp", json!(NOW - LEEWAY_S + 1)), "accepted");
    assert_eq!(at("exp", json!(NOW - LEEWAY_S)), "expired");
    assert_eq!(at("exp", json!(1_799_999_970.5)), "expired");
    assert_eq!(at("exp", json!(1_799_999_971.0)), "accepted");
    for name in ["nbf", "iat"] {
        assert_eq!(at(name, json!(NOW + LEEWAY_S)), "accepted", "{name}");
        assert_eq!(at(name, json!(NOW + LEEWAY_S + 1)), "not_yet_valid", "{name}");
        assert_eq!(at(name, json!(1_800_000_030.5)), "not_yet_valid", "{name}");
    }
}

#[test]
fn the_audience_is_the_callers_or_the_policys() {
    let signer = Signer::p256();
    let policy = IssuerPolicy::new(ISSUER, vec!["api".to_owned()], None, ClaimRules::default()).unwrap();
    let verifier = verifier_of(vec![policy]);
    verifier
        .replace_keys(ISSUER, KeySet::parse(&jwks(&[signer.jwk("k")])).unwrap())
        .unwrap();
    let check = |aud: Value, audience: &str| {
        let token = signer.token("ES256", "k", &claims_with("aud", aud));
        reason(verifier.verify(&token, audience, NOW))
    };
    assert_eq!(check(json!("api"), AUDIENCE), "accepted");
    assert_eq!(check(json!(["x", "api"]), ""), "accepted");
    assert_eq!(check(json!(AUDIENCE), AUDIENCE), "accepted");
    assert_eq!(
        check(json!(AUDIENCE), "https://gateway.example/mcp/acme/other"),
        "wrong_audience"
    );
    assert_eq!(check(json!(""), ""), "wrong_audience");
    assert_eq!(check(json!("API"), AUDIENCE), "wrong_audience");
}

#[test]
fn the_compact_form_is_read_strictly() {
    let signer = Signer::p256();
    let verifier = verifier(&[signer.jwk("k")]);
    let check = |token: &str| reason(verifier.verify(token, AUDIENCE, NOW));
    let good = signer.token("ES256", "k", &claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    assert_eq!(check(&good), "accepted");
    for token in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        message.to_owned(),
        format!("{good}."),
        format!("{good}.x"),
        format!(".{good}"),
        format!("{good}="),
        format!("{good}=="),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{good}é"),
        good.replace('.', "=."),
        good.replacen('e', "+", 1),
        format!("{message}.{}", &signature[..signature.len() - 1]),
    ] {
        assert_ne!(check(&token), "accepted", "{token}");
    }
    assert_eq!(check(&format!("{message}.")), "bad_signature");
    assert_eq!(check(&format!("{message}.{}", encode([0; 64]))), "bad_signature");
    assert_eq!(check(&"a".repeat(16 * 1024 + 1)), "too_large");
    assert_eq!(check(&"a".repeat(16 * 1024)), "malformed");
}

#[test]
fn a_signature_has_no_second_spelling() {
    let signer = Signer::p256();
    let verifier = verifier(&[signer.jwk("k")]);
    let good = signer.token("ES256", "k", &claims());
    let last = good.chars().last().unwrap();
    let accepted = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        .chars()
        .filter(|tail| {
            verifier
                .verify(&format!("{}{tail}", &good[..good.len() - 1]), AUDIENCE, NOW)
                .is_ok()
        })
        .collect::<Vec<_>>();
    assert_eq!(accepted, [last]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_token_is_refused(position in any::<prop::sample::Index>(), byte in 0_u8..128, op in 0..4) {
        let signer = Signer::ed25519();
        let verifier = verifier(&[signer.jwk("k")]);
        let good = signer.token("EdDSA", "k", &claims());
        let mut bytes = good.clone().into_bytes();
        let at = position.index(bytes.len());
        match op {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => { bytes.remove(at); }
            _ => bytes.truncate(at),
        }
        let mutated = String::from_utf8(bytes).unwrap();
        prop_assume!(mutated != good);
        prop_assert!(verifier.verify(&mutated, AUDIENCE, NOW).is_err());
    }

    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,64}|[A-Za-z0-9_.-]{0,400}") {
        prop_assert!(verifier(&[Signer::ed25519().jwk("k")]).verify(&text, AUDIENCE, NOW).is_err());
    }

    #[test]
    fn any_signed_claims_are_judged_without_a_panic(text in "\\{(\"(iss|sub|aud|exp)\":(\"x\"|1|-1e3|\\[\\]|null),?){0,4}\\}") {
        let signer = Signer::ed25519();
        let token = signer.token_of("EdDSA", r#"{"alg":"EdDSA","kid":"k"}"#, &text);
        prop_assert!(verifier(&[signer.jwk("k")]).verify(&token, AUDIENCE, NOW).is_err());
    }
}
