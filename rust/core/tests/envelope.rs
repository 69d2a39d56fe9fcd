//! The envelope scan, against `serde_json` as an independent reader.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;

use agentapi_core::envelope::{Envelope, EnvelopeError, Id, Kind, Limits, MAX_DEPTH, Reason};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const LIMITS: Limits = Limits {
    max_bytes: 1 << 20,
    max_depth: 64,
};
const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

fn scan(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    Envelope::scan(body, LIMITS)
}

fn reason(body: impl AsRef<[u8]>) -> Reason {
    scan(body.as_ref()).unwrap_err().reason
}

#[test]
fn finds_what_a_relay_needs() {
    let body = r#" {"params" : {"arguments":{"name":"no","_meta":1}, "n\u0061me": "a\tb\u00e9\ud83d\ude00",
        "requestState":"s", "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{}, "progressToken":"t"}},
        "method":"tools\/call", "id": -5 , "jsonrpc":"2.0", "trace":[{"id":1},{"id":2}]} "#;
    let found = scan(body.as_bytes()).unwrap();
    assert_eq!(
        (found.kind, found.id, found.method.as_deref()),
        (Kind::Request, Some(Id::Integer(-5)), Some("tools/call"))
    );
    assert_eq!(found.name.as_deref(), Some("a\tb\u{e9}\u{1f600}"));
    assert_eq!((found.uri, found.request_state.as_deref()), (None, Some("s")));
    assert_eq!(found.protocol_version.as_deref(), Some("2026-07-28"));
    assert!(found.has_meta && found.has_plain_params && found.has_progress_token);
    let ranges = found.ranges;
    assert_eq!(&body[ranges.id.unwrap()], "-5");
    assert_eq!(&body[ranges.request_state.unwrap()], "\"s\"");
    assert!(body[ranges.meta.unwrap()].ends_with(r#""t"}"#));
    assert!(body[ranges.params.unwrap()].starts_with(r#"{"arguments""#));
    assert_eq!(ranges.uri, None);
}

#[test]
fn keys_are_unique_at_every_level_however_they_are_written() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"x":[{"a":1,"b":2,"\u0061":3}]}"#,
        r#"{"\ud83d\ude00":1,"😀":1}"#,
        r#"{"a/b":1,"a\/b":1}"#,
    ] {
        assert_eq!(reason(text), Reason::DuplicateKey, "{text}");
    }
    let many = |count: usize, last: usize| {
        let keys: Vec<String> = (0..count)
            .chain([last])
            .map(|key| format!("\"{key}\":0"))
            .collect();
        format!(
            "{{\"x\":{{{}}},{}}}",
            keys.join(","),
            r#""jsonrpc":"2.0","method":"m""#
        )
    };
    for count in 1..40 {
        assert!(scan(many(count, count).as_bytes()).is_ok(), "{count}");
        for last in [0, count / 2, count - 1] {
            assert_eq!(reason(many(count, last)), Reason::DuplicateKey, "{count} {last}");
        }
    }
    assert!(scan(br#"{"jsonrpc":"2.0","method":"m","x":{"a":{"a":[{"a":1},{"a":1}]}},"a":1}"#).is_ok());
}

#[test]
fn depth_is_exact_and_nothing_overflows() {
    let nested = |depth: usize| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"m","x":{}{}}}"#,
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    };
    assert!(scan(nested(64).as_bytes()).is_ok());
    assert_eq!(reason(nested(65)), Reason::TooDeep);
    assert_eq!(reason("[".repeat(1 << 20)), Reason::TooDeep);
    assert_eq!(reason("{\"\":".repeat(1 << 17)), Reason::TooDeep);
    let limits = Limits {
        max_depth: usize::MAX,
        ..LIMITS
    };
    assert!(Envelope::scan(nested(MAX_DEPTH).as_bytes(), limits).is_ok());
    assert!(Envelope::scan(nested(MAX_DEPTH + 1).as_bytes(), limits).is_err());
}

#[test]
fn only_a_good_id_of_a_json_text_is_answered() {
    let id = |text: &str| scan(text.as_bytes()).unwrap_err().id_json;
    assert_eq!(
        id(r#"{"id": "\u0061" ,"jsonrpc":"1.0"}"#).as_deref(),
        Some(r#""\u0061""#)
    );
    assert_eq!(id(r#"{"id":7,"params":{"a":1,"a":1}}"#).as_deref(), Some("7"));
    assert_eq!(id(r#"{"id":7,"id":8}"#), None);
    assert_eq!(id(r#"{"id":7.5}"#), None);
    assert_eq!(id(r#"{"id":-0}"#), None);
    assert_eq!(id(r#"{"id":7,"x":NaN}"#), None);
    assert_eq!(id(r#"{"params":{"id":7}}"#), None);
}

#[test]
fn control_characters_quotes_and_escapes_are_seen_at_every_alignment() {
    for length in 0..40 {
        let plain = "x".repeat(length);
        for (special, expected) in [
            ("\n", Err(Reason::InvalidJson)),
            ("\0", Err(Reason::InvalidJson)),
            ("\u{1f}", Err(Reason::InvalidJson)),
            ("\\ud800", Err(Reason::LoneSurrogate)),
            ("\\x", Err(Reason::InvalidJson)),
            (" ", Ok(" ")),
            ("\u{7f}", Ok("\u{7f}")),
            ("\u{e9}", Ok("\u{e9}")),
            ("\\\"", Ok("\"")),
            ("\\\\", Ok("\\")),
            ("\\u0000", Ok("\0")),
        ] {
            let body =
                format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"name":"{plain}{special}{plain}"}}}}"#);
            let found = scan(body.as_bytes())
                .map(|found| found.name.unwrap().into_owned())
                .map_err(|error| error.reason);
            assert_eq!(
                found,
                expected.map(|special| format!("{plain}{special}{plain}")),
                "{body:?}"
            );
        }
    }
}

fn json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(".{0,6}", inner, 0..12).prop_map(object),
        ]
    })
}

fn object(members: BTreeMap<String, Value>) -> Value {
    Value::Object(Map::from_iter(members))
}

/// Some of `members`, each with a value from its strategy.
fn some_of(members: Vec<(&'static str, BoxedStrategy<Value>)>) -> impl Strategy<Value = Value> {
    members
        .into_iter()
        .map(|(key, value)| proptest::option::of(value).prop_map(move |value| Some((key.to_owned(), value?))))
        .collect::<Vec<_>>()
        .prop_map(|members| object(members.into_iter().flatten().collect()))
}

fn text_or_json() -> BoxedStrategy<Value> {
    prop_oneof![3 => ".{0,30}".prop_map(Value::from), 1 => json()].boxed()
}

fn message() -> impl Strategy<Value = Value> {
    let meta = some_of(vec![
        (VERSION, text_or_json()),
        ("progressToken", text_or_json()),
        ("other", json().boxed()),
    ]);
    let params = some_of(vec![
        ("name", text_or_json()),
        ("uri", text_or_json()),
        ("requestState", text_or_json()),
        ("_meta", prop_oneof![3 => meta, 1 => json()].boxed()),
        ("arguments", json().boxed()),
        ("inputResponses", json().boxed()),
    ]);
    let version = prop_oneof![5 => Just(json!("2.0")), 1 => json()].boxed();
    some_of(vec![
        ("jsonrpc", version),
        (
            "id",
            prop_oneof![any::<i64>().prop_map(Value::from), json()].boxed(),
        ),
        ("method", text_or_json()),
        ("params", prop_oneof![3 => params, 1 => json()].boxed()),
        ("result", prop_oneof![1 => json()].boxed()),
        ("more", json().boxed()),
    ])
}

fn agrees_with_serde(body: &[u8]) -> Result<(), TestCaseError> {
    let Ok(found) = scan(body) else {
        return Ok(());
    };
    let value: Value =
        serde_json::from_slice(body).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let owned = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned);
    prop_assert_eq!(&value["jsonrpc"], "2.0");
    prop_assert_eq!(owned(found.method), text(&value["method"]));
    prop_assert_eq!(
        found.kind == Kind::Notification,
        value.get("id").is_none() && value.get("method").is_some()
    );
    let id = match found.id {
        Some(Id::Integer(number)) => Some(json!(number)),
        Some(Id::String(text)) => Some(json!(text)),
        None => None,
    };
    prop_assert_eq!(id.as_ref(), value.get("id").filter(|id| !id.is_null()));
    if found.kind != Kind::Response {
        let params = &value["params"];
        prop_assert_eq!(owned(found.name), text(&params["name"]));
        prop_assert_eq!(owned(found.uri), text(&params["uri"]));
        prop_assert_eq!(owned(found.request_state), text(&params["requestState"]));
        prop_assert_eq!(owned(found.protocol_version), text(&params["_meta"][VERSION]));
        prop_assert_eq!(found.has_meta, params["_meta"].is_object());
        let plain = params.get("arguments").is_none_or(Value::is_object)
            && params
                .get("requestState")
                .is_none_or(|state| state.is_string() || state.is_null())
            && params.get("inputResponses").is_none();
        prop_assert_eq!(found.has_plain_params, plain);
        for (range, member) in [
            (found.ranges.params, value.get("params")),
            (found.ranges.name, params.get("name")),
            (found.ranges.uri, params.get("uri")),
            (found.ranges.request_state, params.get("requestState")),
            (found.ranges.meta, params.get("_meta")),
        ] {
            let inside = range.map(|range| serde_json::from_slice::<Value>(&body[range]).unwrap());
            prop_assert_eq!(inside.as_ref(), member);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_read_as_serde_json_reads_them(message in message(), pretty: bool) {
        let body = if pretty { serde_json::to_vec_pretty(&message) } else { serde_json::to_vec(&message) };
        agrees_with_serde(&body.unwrap())?;
    }

    #[test]
    fn a_call_is_accepted_whatever_it_carries(
        id: i64, method in "\\PC{0,30}", name in ".{0,60}", arguments in json(), pretty: bool,
    ) {
        let call = json!({
            "jsonrpc": "2.0", "id": id, "method": method, "params": {"name": name, "arguments": arguments},
        });
        let body = if pretty { serde_json::to_vec_pretty(&call) } else { serde_json::to_vec(&call) }.unwrap();
        let found = scan(&body).unwrap();
        prop_assert_eq!(found.id, Some(Id::Integer(id)));
        prop_assert_eq!(found.name.as_deref(), Some(name.as_str()));
        agrees_with_serde(&body)?;
    }

    #[test]
    fn mutated_messages_read_as_serde_json_reads_them(
        message in message(), at in any::<prop::sample::Index>(), cut in 0_usize..6,
        put in vec(prop::sample::select(b"{}[]\",:\\u0deE+-.1 \n\x00\x7f\x80\xed\xff".as_slice()), 0..6),
    ) {
        let mut body = serde_json::to_vec(&message).unwrap();
        let at = at.index(body.len());
        let end = body.len().min(at + cut);
        body.splice(at..end, put);
        agrees_with_serde(&body)?;
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
        agrees_with_serde(&body)?;
    }
}
