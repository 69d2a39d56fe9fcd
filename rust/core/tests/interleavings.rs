//! What threads share under every order of steps that a model checker comes upon: a token that an invalidation has
//! killed is accepted from nobody once that has returned; a circuit loses no outcome, counts none for a later
//! generation, opens once and has one probe at a time. Runs with the feature `shuttle` only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use agentapi_core::circuit_breaker::{Circuit, CircuitBreakers, Outcome, Recorded, Rules, State};
use agentapi_core::claims::ClaimRules;
use agentapi_core::jwt::{IssuerPolicy, TokenError, Verified};
use agentapi_core::token_cache::CachingVerifier;
use common::{AUDIENCE, ISSUER, NOW, SECRET, Signer, claims, jwks, policy, verifier_of};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{Config, Runner, thread};

type Cache = CachingVerifier<std::sync::Arc<Verified>>;

const ORDERS: usize = 10_000;
/// How often a priority changes within one order.
const CHANGES: usize = 3;
const SHOWERS: usize = 2;
const SHOWN: usize = 3;
const CALLERS: u32 = 3;
const START: u64 = 1_000_000_000_000;
/// When the open time of what opened at [`START`] is over.
const LATER: u64 = START + 60_000_000_000;

/// Runs `test` in many orders, drawn at random, and with priorities that change at random points.
fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
        let mut config = Config::new();
        // The crypto library needs more than the model gives a thread.
        config.stack_size = 1 << 20;
        Runner::new(scheduler, config).run(test);
    }
    run(RandomScheduler::new(ORDERS), test.clone());
    run(PctScheduler::new(CHANGES, ORDERS), test);
}

fn show(cache: &Cache, token: &str) -> Result<(), TokenError> {
    if let Some(answer) = cache.recall(token, AUDIENCE, NOW, |_| ()) {
        return answer;
    }
    let verified = std::sync::Arc::new(cache.verify(token, AUDIENCE, NOW)?);
    cache.remember(token, verified, NOW, |_| ())
}

/// Shows `token` on several threads while `invalidate` runs on another.
fn nobody_gets_it_afterwards(cache: Cache, token: &str, invalidate: impl FnOnce(&Cache) + Send + 'static) {
    let cache = Arc::new(cache);
    let is_dead = Arc::new(AtomicBool::new(false));
    let showers: Vec<_> = (0..SHOWERS)
        .map(|_| {
            let (cache, is_dead, token) = (Arc::clone(&cache), Arc::clone(&is_dead), token.to_owned());
            thread::spawn(move || {
                for _ in 0..SHOWN {
                    let was_dead = is_dead.load(Ordering::SeqCst);
                    let accepted = show(&cache, &token).is_ok();
                    assert!(!(accepted && was_dead), "accepted after its end");
                }
            })
        })
        .collect();
    invalidate(&cache);
    is_dead.store(true, Ordering::SeqCst);
    for shower in showers {
        shower.join().unwrap();
    }
    assert!(show(&cache, token).is_err());
}

/// A cache for tokens of a shared secret, which are verified fast, and one such token.
fn with_secret() -> (Cache, String) {
    let rules = ClaimRules::default();
    let policy = IssuerPolicy::new(ISSUER, vec![], Some(SECRET.to_vec().into()), rules).unwrap();
    let token = Signer::Secret(SECRET.to_vec()).token("HS256", "k", &claims());
    (Cache::new(verifier_of(vec![policy]), 4), token)
}

#[test]
fn a_revoked_token_is_accepted_from_nobody() {
    explore(|| {
        let (cache, token) = with_secret();
        nobody_gets_it_afterwards(cache, &token, |cache| {
            cache.revoke_token(ISSUER, "t-1", NOW + 600, NOW).unwrap();
        });
    });
}

#[test]
fn a_token_of_a_revoked_subject_is_accepted_from_nobody() {
    explore(|| {
        let (cache, token) = with_secret();
        nobody_gets_it_afterwards(cache, &token, |cache| {
            cache.revoke_token(ISSUER, "another", NOW + 600, NOW).unwrap();
            cache
                .revoke_subject(ISSUER, "user-1", NOW + 1, None, NOW)
                .unwrap();
        });
    });
}

#[test]
fn a_token_of_a_retired_key_is_accepted_from_nobody() {
    let [old, new] = [Signer::ed25519(), Signer::ed25519()];
    let token = old.token("EdDSA", "old", &claims());
    let (old, new) = (jwks(&[old.jwk("old")]), jwks(&[new.jwk("new")]));
    explore(move || {
        let cache = Cache::new(verifier_of(vec![policy(ISSUER)]), 4);
        cache.replace_keys(ISSUER, &old).unwrap();
        let new = new.clone();
        nobody_gets_it_afterwards(cache, &token, move |cache| {
            cache.replace_keys(ISSUER, &new).unwrap();
        });
    });
}

/// Circuits without jitter that open at `failures` in a row and close at the first success of a probe.
fn breakers(failures: u32, capacity: usize) -> CircuitBreakers {
    let rules = Rules {
        consecutive_failures: failures,
        jitter_percent: 0,
        successes_to_close: 1,
        ..Rules::default()
    };
    CircuitBreakers::new(rules, capacity, 7).unwrap()
}

/// A closed circuit that counts successes without its lock.
fn counting(failures: u32) -> Circuit {
    let circuit = breakers(failures, 4).circuit("key", START);
    let ticket = circuit.allow(START).unwrap();
    assert_eq!(circuit.record(ticket, Outcome::Success, START), Recorded::Counted);
    circuit
}

/// A circuit whose open time is over.
fn opened() -> Circuit {
    let circuit = counting(1);
    let ticket = circuit.allow(START).unwrap();
    assert!(is_opened(circuit.record(ticket, Outcome::Failure, START)));
    circuit
}

fn is_opened(recorded: Recorded) -> bool {
    matches!(recorded, Recorded::Opened { .. })
}

/// What each of [`CALLERS`] threads makes of `circuit`.
fn on_threads<R: Send + 'static>(
    circuit: &Circuit,
    call: impl Fn(&Circuit, u32) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let call = Arc::new(call);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (circuit, call) = (circuit.clone(), Arc::clone(&call));
            thread::spawn(move || call(&circuit, number))
        })
        .collect();
    callers.into_iter().map(|caller| caller.join().unwrap()).collect()
}

#[test]
fn no_outcome_of_a_circuit_is_lost() {
    explore(|| {
        let circuit = counting(100);
        on_threads(&circuit, |circuit, number| {
            let ticket = circuit.allow(START).unwrap();
            for _ in 0..2 {
                assert_eq!(circuit.record(ticket, Outcome::Success, START), Recorded::Counted);
            }
            // The lock is taken to read and to write, beside the threads that count without it.
            if number == 0 {
                let _ = circuit.snapshot(START);
            } else {
                assert_eq!(circuit.record(ticket, Outcome::Failure, START), Recorded::Counted);
            }
        });
        let shown = circuit.snapshot(START);
        let failures = CALLERS - 1;
        assert_eq!(
            (shown.calls, shown.failures),
            (1 + 2 * CALLERS + failures, failures)
        );
    });
}

#[test]
fn no_late_success_counts_for_a_later_generation() {
    explore(|| {
        let breakers = breakers(2, 4);
        let circuit = breakers.circuit("key", START);
        let old = circuit.allow(START).unwrap();
        assert_eq!(circuit.record(old, Outcome::Success, START), Recorded::Counted);
        let late = {
            let circuit = circuit.clone();
            thread::spawn(move || [(); 2].map(|()| circuit.record(old, Outcome::Success, START)))
        };
        breakers.reset("key");
        let new = circuit.allow(START).unwrap();
        assert_eq!(circuit.record(new, Outcome::Failure, START), Recorded::Counted);
        late.join().unwrap();
        let shown = circuit.snapshot(START);
        assert_eq!(
            (shown.calls, shown.failures, shown.consecutive_failures),
            (1, 1, 1)
        );
        assert!(is_opened(circuit.record(new, Outcome::Failure, START)));
    });
}

#[test]
fn no_late_outcome_moves_a_circuit_that_has_opened() {
    explore(|| {
        let circuit = counting(1);
        let recorded = on_threads(&circuit, |circuit, number| {
            let ticket = circuit.allow(START).ok()?;
            let outcome = if number % 2 == 0 {
                Outcome::Failure
            } else {
                Outcome::Success
            };
            Some(circuit.record(ticket, outcome, START))
        });
        let opened = recorded
            .into_iter()
            .flatten()
            .filter(|recorded| is_opened(*recorded));
        assert_eq!(opened.count(), 1);
        let shown = circuit.snapshot(START);
        assert_eq!((shown.state, shown.openings), (State::Open, 1));
    });
}

#[test]
fn failures_on_several_threads_open_a_circuit_once() {
    explore(|| {
        let circuit = counting(CALLERS);
        let has_opened = Arc::new(AtomicBool::new(false));
        let recorded = on_threads(&circuit, move |circuit, _| {
            [(); 2].map(|()| {
                let was_over = has_opened.load(Ordering::SeqCst);
                let Ok(ticket) = circuit.allow(START) else {
                    return Recorded::Stale;
                };
                assert!(!was_over, "let through after the opening");
                let recorded = circuit.record(ticket, Outcome::Failure, START);
                has_opened.fetch_or(is_opened(recorded), Ordering::SeqCst);
                recorded
            })
        });
        let recorded = recorded.concat();
        let how_many = |wanted: fn(Recorded) -> bool| recorded.iter().filter(|it| wanted(**it)).count();
        assert_eq!(
            how_many(|recorded| recorded == Recorded::Counted),
            CALLERS as usize - 1
        );
        assert_eq!(how_many(is_opened), 1);
        assert_eq!(circuit.snapshot(START).openings, 1);
    });
}

#[test]
fn a_circuit_has_one_probe_at_a_time() {
    explore(|| {
        let circuit = opened();
        let is_probed = Arc::new(AtomicBool::new(false));
        let recorded = on_threads(&circuit, move |circuit, number| {
            let ticket = circuit.allow(LATER).ok()?;
            if !ticket.is_probe() {
                return None;
            }
            assert!(!is_probed.swap(true, Ordering::SeqCst), "two probes at a time");
            is_probed.store(false, Ordering::SeqCst);
            let outcome = match number {
                0 => Outcome::Neutral,
                1 => Outcome::Success,
                _ => Outcome::Failure,
            };
            Some(circuit.record(ticket, outcome, LATER))
        });
        assert!(recorded.iter().any(Option::is_some));
        assert!(!recorded.contains(&Some(Recorded::Stale)));
    });
}

#[test]
fn a_key_has_one_circuit_on_all_threads() {
    explore(|| {
        // A table of one evicts all the time.
        let breakers = Arc::new(breakers(CALLERS, 1));
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let breakers = Arc::clone(&breakers);
                thread::spawn(move || {
                    let _ = breakers.circuit(&number.to_string(), START);
                    let circuit = breakers.circuit("key", START);
                    let ticket = circuit.allow(START).unwrap();
                    let recorded = circuit.record(ticket, Outcome::Failure, START);
                    (circuit, is_opened(recorded))
                })
            })
            .collect();
        let held: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        assert_eq!(held.iter().filter(|(_, opened)| *opened).count(), 1);
    });
}
