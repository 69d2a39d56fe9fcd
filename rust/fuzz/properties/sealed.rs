//! What holds of sealed values and keyrings for any bytes. Shared by the fuzz target and the replay of its corpus.
//!
//! The first byte says what the rest is: a sealed value, a keyring's text, or a plaintext (from the second byte on).

use std::sync::LazyLock;

use agentapi_core::sealed::{Keyring, SealError};

const TEXT: &str = r#"{"active":"k1","keys":{"k1":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","old":"HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}}"#;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| Keyring::parse(TEXT).expect("a good keyring"));

pub fn check(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    match how % 3 {
        0 => open(rest),
        1 => parse(rest),
        _ => round_trip(rest),
    }
}

/// Nobody finds a sealed value by chance; whatever is wrong reads alike.
fn open(sealed: &[u8]) {
    assert_eq!(KEYRING.open(sealed, b"").err(), Some(SealError::CannotOpen));
    assert_eq!(
        KEYRING.open_unexpired(sealed, b"", 0).err(),
        Some(SealError::CannotOpen)
    );
}

fn parse(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(keyring) = Keyring::parse(text) else {
        assert!(Keyring::rotate(text, "new").is_err());
        return;
    };
    assert!(keyring.key_ids().contains(&keyring.active_key_id()));
    let sealed = keyring.seal(b"plain", b"aad").expect("a keyring seals");
    if let Ok(rotated) = Keyring::rotate(text, "new") {
        let rotated = Keyring::parse(&rotated).expect("a rotated keyring is one");
        assert_eq!(rotated.active_key_id(), "new");
        assert_eq!(
            rotated
                .open(&sealed, b"aad")
                .expect("the old key opens")
                .as_slice(),
            b"plain"
        );
    }
}

fn round_trip(rest: &[u8]) {
    let Some((at, plaintext)) = rest.split_first() else {
        return;
    };
    let mut sealed = KEYRING.seal(plaintext, b"aad").expect("a keyring seals");
    assert_eq!(
        KEYRING.open(&sealed, b"aad").expect("it opens").as_slice(),
        plaintext
    );
    let until = KEYRING
        .seal_until(plaintext, b"aad", 100)
        .expect("a keyring seals");
    assert_eq!(
        KEYRING
            .open_unexpired(&until, b"aad", 99)
            .expect("it opens")
            .as_slice(),
        plaintext
    );
    assert_eq!(
        KEYRING.open_unexpired(&until, b"aad", 100).err(),
        Some(SealError::CannotOpen)
    );
    let at = usize::from(*at) % sealed.len();
    sealed[at] ^= 1 << (plaintext.len() % 8);
    assert_eq!(KEYRING.open(&sealed, b"aad").err(), Some(SealError::CannotOpen));
}
