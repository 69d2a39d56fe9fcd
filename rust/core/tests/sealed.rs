//! Sealing and opening.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use agentapi_core::sealed::{Keyring, KeyringError, MAX_PLAINTEXT_BYTES, SealError};
use proptest::prelude::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn keyring() -> Keyring {
    Keyring::parse(&format!(r#"{{"active":"k1","keys":{{"k1":"{KEY}"}}}}"#)).unwrap()
}

#[test]
fn the_format_is_the_documented_one() {
    let sealed = keyring().seal(b"secret", b"row 7").unwrap();
    assert_eq!(&sealed[..4], b"\x01\x02k1");
    assert_eq!(sealed.len(), 4 + 12 + 6 + 16);
}

#[test]
fn a_value_sealed_elsewhere_opens() {
    // Made with pyca/cryptography: AESGCM(bytes(range(32))).encrypt(b"n" * 12, b"secret", b"\x01\x02k1row 7").
    let peer = [b"\x01\x02k1nnnnnnnnnnnn".as_slice(), PEER].concat();
    assert_eq!(keyring().open(&peer, b"row 7").unwrap().as_slice(), b"secret");
}

const PEER: &[u8] =
    b"\xd4\x3e\x74\x1b\xd0\x28\x6e\xa6\x65\x5b\x7f\xaa\x2c\xf9\x25\x0c\x56\x73\x44\xde\xcd\xfd";

#[test]
fn nonces_differ() {
    let keyring = keyring();
    let nonces: std::collections::HashSet<Vec<u8>> = (0..1000)
        .map(|_| keyring.seal(b"", b"").unwrap()[4..16].to_vec())
        .collect();
    assert_eq!(nonces.len(), 1000);
}

#[test]
fn a_value_opens_in_its_place_only() {
    let keyring = keyring();
    let sealed = keyring.seal(b"secret", b"row 7").unwrap();
    for aad in [b"row 8".as_slice(), b"", b"row 7 ", b"1row 7"] {
        assert_eq!(keyring.open(&sealed, aad), Err(SealError::CannotOpen));
    }
}

#[test]
fn every_failure_to_open_is_the_same() {
    let keyring = keyring();
    let sealed = keyring.seal(b"secret", b"").unwrap();
    let with = |at: usize, byte: u8| {
        let mut changed = sealed.clone();
        changed[at] = byte;
        changed
    };
    let foreign = Keyring::parse(&Keyring::generate("k1").unwrap())
        .unwrap()
        .seal(b"secret", b"")
        .unwrap();
    let cases = [
        vec![],
        vec![1],
        with(0, 2),
        with(1, 3),
        with(1, 255),
        with(3, b'2'),
        with(2, 0xff),
        foreign,
    ];
    for sealed in cases {
        assert_eq!(
            keyring.open(&sealed, b""),
            Err(SealError::CannotOpen),
            "{sealed:?}"
        );
    }
    assert_eq!(
        SealError::CannotOpen.to_string(),
        "the sealed value cannot be opened"
    );
}

#[test]
fn a_value_opens_until_it_expires() {
    let keyring = keyring();
    let sealed = keyring.seal_until(b"session", b"tenant", 100).unwrap();
    assert_eq!(
        (&sealed[..4], sealed.len()),
        (b"\x02\x02k1".as_slice(), 4 + 12 + 8 + 7 + 16)
    );
    for (now, opens) in [
        (i64::MIN, true),
        (0, true),
        (99, true),
        (100, false),
        (i64::MAX, false),
    ] {
        let opened = keyring.open_unexpired(&sealed, b"tenant", now);
        assert_eq!(
            opened.is_ok_and(|opened| opened.as_slice() == b"session"),
            opens,
            "{now}"
        );
    }
    let text = keyring.seal_text_until(b"session", b"tenant", 100).unwrap();
    assert!(
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    );
    assert_eq!(
        keyring
            .open_text_unexpired(&text, b"tenant", 99)
            .unwrap()
            .as_slice(),
        b"session"
    );
    assert_eq!(
        keyring.open_text_unexpired(&text, b"tenant", 100),
        Err(SealError::CannotOpen)
    );
    let largest = vec![7; MAX_PLAINTEXT_BYTES];
    let sealed = keyring.seal_until(&largest, b"", 1).unwrap();
    assert_eq!(
        keyring.open_unexpired(&sealed, b"", 0).unwrap().as_slice(),
        largest
    );
    assert_eq!(
        keyring.seal_until(&[largest, vec![7]].concat(), b"", 1),
        Err(SealError::TooLarge)
    );
}

#[test]
fn an_expiring_value_and_a_lasting_one_are_not_mistaken_for_each_other() {
    let keyring = keyring();
    let lasting = keyring.seal(&[0x7f; 16], b"").unwrap();
    let expiring = keyring.seal_until(&[0x7f; 16], b"", i64::MAX).unwrap();
    let as_version = |sealed: &[u8], version: u8| [&[version], &sealed[1..]].concat();
    for sealed in [&expiring, &as_version(&expiring, 1)] {
        assert_eq!(keyring.open(sealed, b""), Err(SealError::CannotOpen));
        assert_eq!(keyring.reseal(sealed, b""), Err(SealError::CannotOpen));
    }
    for sealed in [&lasting, &as_version(&lasting, 2)] {
        assert_eq!(keyring.open_unexpired(sealed, b"", 0), Err(SealError::CannotOpen));
    }
}

#[test]
fn every_failure_to_open_an_expiring_value_is_the_same() {
    let keyring = keyring();
    let sealed = keyring.seal_until(b"session", b"tenant", 100).unwrap();
    let foreign = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    let renamed = Keyring::parse(&format!(r#"{{"active":"k2","keys":{{"k2":"{KEY}"}}}}"#)).unwrap();
    let mut failures = vec![
        keyring.open_unexpired(&sealed, b"tenant", 100),
        keyring.open_unexpired(&sealed, b"other", 99),
        keyring.open_unexpired(&sealed, b"other", 100),
        keyring.open_unexpired(b"", b"tenant", 99),
        foreign.open_unexpired(&sealed, b"tenant", 99),
        renamed.open_unexpired(&sealed, b"tenant", 99),
        keyring.open_text_unexpired("", b"tenant", 99),
        keyring.open_text_unexpired("no base64url!", b"tenant", 99),
        keyring.open_text_unexpired(&(encode(&sealed) + "="), b"tenant", 99),
    ];
    failures.extend((0..sealed.len()).map(|end| keyring.open_unexpired(&sealed[..end], b"tenant", 99)));
    failures.extend((0..sealed.len()).map(|at| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        keyring.open_unexpired(&changed, b"tenant", 99)
    }));
    for failure in failures {
        assert_eq!(failure, Err(SealError::CannotOpen));
    }
}

fn encode(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes)
}

#[test]
fn a_key_id_cannot_be_moved_into_the_associated_data() {
    let text = format!(r#"{{"active":"k","keys":{{"k":"{KEY}","k1":"{KEY}"}}}}"#);
    let keyring = Keyring::parse(&text).unwrap();
    let sealed = keyring.seal(b"secret", b"1x").unwrap();
    let moved = [b"\x01\x02k1", &sealed[3..]].concat();
    assert_eq!(keyring.open(&moved, b"x"), Err(SealError::CannotOpen));
}

#[test]
fn an_unknown_key_id_opens_under_no_key() {
    let renamed = Keyring::parse(&format!(r#"{{"active":"k2","keys":{{"k2":"{KEY}"}}}}"#)).unwrap();
    let sealed = renamed.seal(b"secret", b"").unwrap();
    assert_eq!(keyring().open(&sealed, b""), Err(SealError::CannotOpen));
}

#[test]
fn rotation_opens_the_old_and_seals_with_the_new() {
    let old_text = Keyring::generate("k1").unwrap();
    let new_text = Keyring::rotate(&old_text, "k2").unwrap();
    let (old, new) = (
        Keyring::parse(&old_text).unwrap(),
        Keyring::parse(&new_text).unwrap(),
    );
    assert_eq!((new.active_key_id(), new.key_ids()), ("k2", vec!["k1", "k2"]));
    let sealed = old.seal(b"secret", b"row").unwrap();
    assert_eq!(new.open(&sealed, b"row").unwrap().as_slice(), b"secret");
    let resealed = new.reseal(&sealed, b"row").unwrap();
    assert_eq!(&resealed[..4], b"\x01\x02k2");
    assert_eq!(new.open(&resealed, b"row").unwrap().as_slice(), b"secret");
    assert_eq!(old.open(&resealed, b"row"), Err(SealError::CannotOpen));
    assert_eq!(new.reseal(&sealed, b"other row"), Err(SealError::CannotOpen));
    assert_eq!(
        Keyring::rotate(&new_text, "k1").unwrap_err(),
        KeyringError::DuplicateKeyId
    );
    assert_eq!(
        Keyring::rotate(&new_text, "K3").unwrap_err(),
        KeyringError::BadKeyId
    );
}

#[test]
fn size_is_limited() {
    let keyring = keyring();
    let largest = vec![7; MAX_PLAINTEXT_BYTES];
    let sealed = keyring.seal(&largest, b"").unwrap();
    assert_eq!(keyring.open(&sealed, b"").unwrap().as_slice(), largest);
    assert_eq!(
        keyring.seal(&vec![7; MAX_PLAINTEXT_BYTES + 1], b""),
        Err(SealError::TooLarge)
    );
    assert_eq!(
        keyring.open(&vec![1; 2 * MAX_PLAINTEXT_BYTES], b""),
        Err(SealError::CannotOpen)
    );
}

#[test]
fn keyrings_are_read_strictly() {
    let cases = [
        ("", KeyringError::Malformed),
        ("[]", KeyringError::Malformed),
        ("{}", KeyringError::Malformed),
        (r#"{"active":"k1"}"#, KeyringError::Malformed),
        (r#"{"active":1,"keys":{}}"#, KeyringError::Malformed),
        (r#"{"active":"k1","keys":{},"more":1}"#, KeyringError::Malformed),
        (
            r#"{"active":"k1","active":"k1","keys":{}}"#,
            KeyringError::Malformed,
        ),
        (r#"{"active":"k1","keys":{}}"#, KeyringError::NoActiveKey),
        (
            r#"{"active":"k2","keys":{"k1":"<KEY>"}}"#,
            KeyringError::NoActiveKey,
        ),
        (
            r#"{"active":"k1","keys":{"k1":"<KEY>","k1":"<KEY>"}}"#,
            KeyringError::Malformed,
        ),
        (r#"{"active":"K1","keys":{"K1":"<KEY>"}}"#, KeyringError::BadKeyId),
        (r#"{"active":"","keys":{"":"<KEY>"}}"#, KeyringError::BadKeyId),
        (r#"{"active":"k1","keys":{"k1":"<KEY>="}}"#, KeyringError::BadKey),
        (r#"{"active":"k1","keys":{"k1":"<KEY>AA"}}"#, KeyringError::BadKey),
        (r#"{"active":"k1","keys":{"k1":"AAAA"}}"#, KeyringError::BadKey),
        (r#"{"active":"k1","keys":{"k1":7}}"#, KeyringError::BadKey),
    ];
    for (text, expected) in cases {
        assert_eq!(
            Keyring::parse(&text.replace("<KEY>", KEY)).unwrap_err(),
            expected,
            "{text}"
        );
    }
    let id = "k".repeat(33);
    assert_eq!(Keyring::generate(&id).unwrap_err(), KeyringError::BadKeyId);
    assert!(Keyring::generate(&id[1..]).is_ok());
}

#[test]
fn a_keyring_does_not_print_its_keys() {
    let printed = format!("{:?}", keyring());
    assert_eq!(printed, r#"Keyring { key_ids: ["k1"], .. }"#);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_opens(plaintext: Vec<u8>, aad: Vec<u8>) {
        let keyring = keyring();
        let sealed = keyring.seal(&plaintext, &aad).unwrap();
        let opened = keyring.open(&sealed, &aad).unwrap();
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
    }

    #[test]
    fn a_changed_value_does_not_open(
        plaintext: Vec<u8>, aad: Vec<u8>, at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<bool>(),
    ) {
        let keyring = keyring();
        let mut sealed = keyring.seal(&plaintext, &aad).unwrap();
        let at = at.index(sealed.len());
        if cut { sealed.truncate(at) } else { sealed[at] ^= flip }
        prop_assert_eq!(keyring.open(&sealed, &aad), Err(SealError::CannotOpen));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>, aad: Vec<u8>) {
        prop_assert_eq!(keyring().open(&bytes, &aad), Err(SealError::CannotOpen));
    }

    #[test]
    fn any_text_is_no_keyring(text in "\\PC*") {
        prop_assert!(Keyring::parse(&text).is_err());
    }
}
