//! What claim rules make of claims.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::collections::HashMap;

use agentapi_core::claims::{ClaimRules, ClaimRulesError, ClaimRulesSpec, Role};
use agentapi_core::jwks::KeySet;
use agentapi_core::jwt::{IssuerPolicy, TokenError, Verified};
use common::{AUDIENCE, ISSUER, NOW, Signer, claims, jwks, rules, verifier_of};
use serde_json::{Value, json};

fn apply(spec: ClaimRulesSpec, extra: &Value) -> Result<Verified, TokenError> {
    let signer = Signer::ed25519();
    let verifier = verifier_of(vec![
        IssuerPolicy::new(ISSUER, vec![], None, rules(spec)).unwrap(),
    ]);
    verifier
        .replace_keys(ISSUER, KeySet::parse(&jwks(&[signer.jwk("k")])).unwrap())
        .unwrap();
    let mut claims = claims();
    claims
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    verifier.verify(&signer.token("EdDSA", "k", &claims), AUDIENCE, NOW)
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn role(spec: ClaimRulesSpec, claim: &Value) -> Result<Option<Role>, TokenError> {
    let spec = ClaimRulesSpec {
        role_pointer: Some("/role".to_owned()),
        ..spec
    };
    apply(spec, &json!({"role": claim})).map(|verified| verified.role)
}

fn organization(spec: ClaimRulesSpec, claim: &Value) -> Result<Option<String>, TokenError> {
    let spec = ClaimRulesSpec {
        organization_pointer: Some("/org".to_owned()),
        ..spec
    };
    apply(spec, &json!({"org": claim})).map(|verified| verified.organization)
}

#[test]
fn the_most_trusted_role_wins() {
    let plain = ClaimRulesSpec::default;
    assert_eq!(role(plain(), &json!("viewer")), Ok(Some(Role::Viewer)));
    assert_eq!(
        role(plain(), &json!(["agent", "member", "org_admin", "viewer"])),
        Ok(Some(Role::OrgAdmin))
    );
    assert_eq!(role(plain(), &json!(["unheard-of"])), Ok(None));
    assert_eq!(role(plain(), &json!([])), Ok(None));
    assert_eq!(role(plain(), &Value::Null), Ok(None));
}

#[test]
fn platform_admin_comes_from_a_mapping_only() {
    let default = || ClaimRulesSpec {
        default_role: Some("viewer".to_owned()),
        ..ClaimRulesSpec::default()
    };
    assert_eq!(role(default(), &json!("platform_admin")), Ok(Some(Role::Viewer)));
    assert_eq!(
        role(default(), &json!(["platform_admin", "member"])),
        Ok(Some(Role::Member))
    );
    let mapped = ClaimRulesSpec {
        roles: map(&[("root", "platform_admin")]),
        ..default()
    };
    assert_eq!(
        role(mapped, &json!(["root", "member"])),
        Ok(Some(Role::PlatformAdmin))
    );
    let named = ClaimRulesSpec {
        roles: map(&[("platform_admin", "platform_admin")]),
        ..default()
    };
    assert_eq!(
        role(named, &json!("platform_admin")),
        Ok(Some(Role::PlatformAdmin))
    );
    let spec = ClaimRulesSpec {
        default_role: Some("platform_admin".to_owned()),
        ..ClaimRulesSpec::default()
    };
    assert_eq!(
        ClaimRules::new(spec).err(),
        Some(ClaimRulesError::DefaultPlatformAdmin)
    );
}

#[test]
fn a_mapping_comes_before_the_name_of_a_role() {
    let spec = || ClaimRulesSpec {
        roles: map(&[("org_admin", "viewer"), ("staff", "member")]),
        ..Default::default()
    };
    assert_eq!(role(spec(), &json!("org_admin")), Ok(Some(Role::Viewer)));
    assert_eq!(
        role(spec(), &json!(["org_admin", "staff"])),
        Ok(Some(Role::Member))
    );
}

#[test]
fn a_token_without_a_role_gets_the_default() {
    let spec = || ClaimRulesSpec {
        default_role: Some("agent".to_owned()),
        ..Default::default()
    };
    assert_eq!(role(spec(), &json!("unheard-of")), Ok(Some(Role::Agent)));
    assert_eq!(
        apply(spec(), &json!({"role": "org_admin"})).unwrap().role,
        Some(Role::Agent),
        "no pointer"
    );
}

#[test]
fn a_claim_of_the_wrong_type_refuses_the_token() {
    for claim in [
        json!(1),
        json!(true),
        json!({}),
        json!(["member", 1]),
        json!([["member"]]),
    ] {
        assert_eq!(
            role(ClaimRulesSpec::default(), &claim),
            Err(TokenError::BadClaim),
            "{claim}"
        );
    }
    for claim in [
        json!(1),
        json!(""),
        json!([]),
        json!(["a", "b"]),
        json!({"a": 1}),
        json!("a\nb"),
        json!("a".repeat(256)),
    ] {
        assert_eq!(
            organization(ClaimRulesSpec::default(), &claim),
            Err(TokenError::BadClaim),
            "{claim}"
        );
    }
}

#[test]
fn organizations_are_mapped_or_taken_as_they_are() {
    let spec = || ClaimRulesSpec {
        organizations: map(&[("11-22", "acme")]),
        organization: Some("fallback".to_owned()),
        ..Default::default()
    };
    assert_eq!(organization(spec(), &json!("11-22")), Ok(Some("acme".to_owned())));
    assert_eq!(
        organization(spec(), &json!(["11-22"])),
        Ok(Some("acme".to_owned()))
    );
    assert_eq!(
        organization(spec(), &json!("globex")),
        Ok(Some("globex".to_owned()))
    );
    assert_eq!(
        organization(spec(), &Value::Null),
        Ok(Some("fallback".to_owned()))
    );
    assert_eq!(organization(ClaimRulesSpec::default(), &Value::Null), Ok(None));
}

#[test]
fn scopes_are_a_string_or_a_list() {
    let scopes = |claim: Value| {
        let spec = ClaimRulesSpec {
            scope_pointer: Some("/scp".to_owned()),
            ..Default::default()
        };
        apply(spec, &json!({"scp": claim})).map(|verified| verified.scopes)
    };
    assert_eq!(scopes(json!("a  b a")).unwrap(), ["a", "b"]);
    assert_eq!(scopes(json!(["a", "b c"])).unwrap(), ["a", "b", "c"]);
    assert_eq!(scopes(json!("")).unwrap(), Vec::<String>::new());
    assert_eq!(scopes(json!(7)), Err(TokenError::BadClaim));
    assert_eq!(scopes(json!("a\tb")), Err(TokenError::BadClaim));
}

#[test]
fn pointers_follow_rfc_6901() {
    let find = |pointer: &str| {
        let spec = ClaimRulesSpec {
            email_pointer: Some(pointer.to_owned()),
            ..Default::default()
        };
        let claims = json!({"a/b": "slash", "m~n": "tilde", "": "empty", "x": {"y": ["zero", "one"]}, "~1": "literal"});
        apply(spec, &claims).map(|verified| verified.email)
    };
    let found = [
        ("/a~1b", "slash"),
        ("/m~0n", "tilde"),
        ("/", "empty"),
        ("/x/y/1", "one"),
        ("/~01", "literal"),
    ];
    for (pointer, expected) in found {
        assert_eq!(find(pointer), Ok(Some(expected.to_owned())), "{pointer}");
    }
    for pointer in [
        "/x/y/01",
        "/x/y/-",
        "/x/y/2",
        "/x/y/+1",
        "/x/z",
        "/a~1b/c",
        "/x/y/99999999999999999999",
    ] {
        assert_eq!(find(pointer), Ok(None), "{pointer}");
    }
    for pointer in ["", "email", "/a~", "/a~2", "#/a"] {
        let spec = ClaimRulesSpec {
            email_pointer: Some(pointer.to_owned()),
            ..Default::default()
        };
        assert_eq!(
            ClaimRules::new(spec).err(),
            Some(ClaimRulesError::BadPointer(pointer.to_owned()))
        );
    }
}

#[test]
fn rules_name_roles_and_organizations_that_exist() {
    let error = |spec| ClaimRules::new(spec).err().unwrap();
    let unknown = ClaimRulesError::UnknownRole("boss".to_owned());
    assert_eq!(
        error(ClaimRulesSpec {
            roles: map(&[("x", "boss")]),
            ..Default::default()
        }),
        unknown
    );
    assert_eq!(
        error(ClaimRulesSpec {
            default_role: Some("boss".to_owned()),
            ..Default::default()
        }),
        unknown
    );
    let bad = ClaimRulesError::BadOrganization(String::new());
    assert_eq!(
        error(ClaimRulesSpec {
            organization: Some(String::new()),
            ..Default::default()
        }),
        bad
    );
    assert_eq!(
        error(ClaimRulesSpec {
            organizations: map(&[("x", "")]),
            ..Default::default()
        }),
        bad
    );
}
