//! Why a message is refused.

/// Why bytes are not one acceptable message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Longer than [`super::Limits::max_bytes`].
    TooLarge,
    /// Not UTF-8; a surrogate written as bytes is not.
    InvalidUtf8,
    /// Not a JSON text (RFC 8259): a byte order mark, `NaN`, a leading zero, or bytes behind the end, too.
    InvalidJson,
    /// An escape of half a surrogate pair, which is no character.
    LoneSurrogate,
    /// A number that is infinite as a double, or written with more than 1,024 bytes.
    NumberOutOfRange,
    /// More containers around a value than [`super::Limits::max_depth`].
    TooDeep,
    /// An object holds a key twice.
    DuplicateKey,
    /// A JSON-RPC batch, which MCP has given up.
    Batch,
    /// JSON, but no object.
    NotAnObject,
    /// `jsonrpc` is not `"2.0"`.
    BadVersion,
    /// `id` is neither a string of bearable length nor a 64-bit integer (`-0` is none), or a result has none.
    BadId,
    /// `method` is no string, or longer than [`super::MAX_METHOD_BYTES`].
    BadMethod,
    /// `params` is no object.
    BadParams,
    /// `params._meta` is no object.
    BadMeta,
    /// None of `method`, `result` and `error`, or more than one of them.
    NotAMessage,
}

impl Reason {
    /// A static `snake_case` word for the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::LoneSurrogate => "lone_surrogate",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::TooDeep => "too_deep",
            Self::DuplicateKey => "duplicate_key",
            Self::Batch => "batch",
            Self::NotAnObject => "not_an_object",
            Self::BadVersion => "bad_version",
            Self::BadId => "bad_id",
            Self::BadMethod => "bad_method",
            Self::BadParams => "bad_params",
            Self::BadMeta => "bad_meta",
            Self::NotAMessage => "not_a_message",
        }
    }

    /// The error code of JSON-RPC 2.0 section 5.1: a parse error, or an invalid request.
    #[must_use]
    pub fn jsonrpc_code(self) -> i32 {
        match self {
            Self::InvalidUtf8 | Self::InvalidJson | Self::LoneSurrogate | Self::NumberOutOfRange => -32700,
            Self::BadParams | Self::BadMeta => -32602,
            _ => -32600,
        }
    }
}

/// A message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .reason.name())]
pub struct EnvelopeError {
    /// Why.
    pub reason: Reason,
    /// The id to answer to, as it is written in the message: that of a JSON text whose id was seen and is good.
    pub id_json: Option<Box<str>>,
}

impl EnvelopeError {
    /// A text that is no JSON has no id either (JSON-RPC 2.0 section 5).
    pub(super) fn new(reason: Reason, id_json: Option<Box<str>>) -> Self {
        let id_json = id_json.filter(|_| reason.jsonrpc_code() != -32700);
        Self { reason, id_json }
    }
}
