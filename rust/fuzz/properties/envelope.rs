//! What holds of the envelope scan for any bytes. Shared by the fuzz target and the replay of its corpus.

use agentapi_core::envelope::{Envelope, Id, Kind, Limits};
use serde_json::Value;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

pub fn check(body: &[u8]) {
    let limits = Limits {
        max_bytes: 1 << 16,
        max_depth: 64,
    };
    let found = match Envelope::scan(body, limits) {
        Ok(found) => found,
        Err(error) => {
            if let Some(id) = error.id_json {
                assert!(serde_json::from_str::<Value>(&id).is_ok_and(|id| id.is_string() || id.is_i64()));
            }
            return;
        }
    };
    let value: Value = serde_json::from_slice(body).expect("what is accepted is JSON");
    assert_eq!(value["jsonrpc"], "2.0");
    assert_eq!(found.method.as_deref(), value["method"].as_str());
    assert_eq!(
        found.kind == Kind::Response,
        value.get("method").is_none(),
        "{value}"
    );
    match found.id {
        Some(Id::Integer(number)) => assert_eq!(value["id"].as_i64(), Some(number)),
        Some(Id::String(text)) => assert_eq!(value["id"].as_str(), Some(text.as_ref())),
        None => assert!(value["id"].is_null()),
    }
    let parsed = |range: std::ops::Range<usize>| serde_json::from_slice::<Value>(&body[range]).ok();
    assert_eq!(
        found.ranges.id.and_then(parsed).as_ref(),
        value.get("id"),
        "{value}"
    );
    if found.kind == Kind::Response {
        return;
    }
    let params = &value["params"];
    assert_eq!(found.name.as_deref(), params["name"].as_str());
    assert_eq!(found.uri.as_deref(), params["uri"].as_str());
    assert_eq!(found.request_state.as_deref(), params["requestState"].as_str());
    assert_eq!(
        found.protocol_version.as_deref(),
        params["_meta"][VERSION].as_str()
    );
    assert_eq!(found.has_meta, params["_meta"].is_object());
    assert!(!found.has_plain_params || params.get("arguments").is_none_or(Value::is_object));
    assert!(!found.has_plain_params || params.get("inputResponses").is_none());
    for (range, member) in [
        (found.ranges.params, value.get("params")),
        (found.ranges.name, params.get("name")),
        (found.ranges.uri, params.get("uri")),
        (found.ranges.request_state, params.get("requestState")),
        (found.ranges.meta, params.get("_meta")),
    ] {
        assert_eq!(range.and_then(parsed).as_ref(), member);
    }
}
