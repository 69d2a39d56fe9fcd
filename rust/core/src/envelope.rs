//! The scan of one JSON-RPC 2.0 message from its bytes, as a relay of MCP needs it.
//!
//! Invariants: nothing is accepted that Python's `json.loads` reads differently or two parsers could read
//! differently: no object at any level holds a key twice (`"a"` and `"\u0061"` are one key), strings are Unicode
//! without lone surrogates, numbers are finite, and nothing but whitespace follows the message. No tree is built
//! and nothing recurses: the work is linear in the length of the text (times a logarithm for the keys of one
//! object), and memory is a word or three for each key of the objects that are open.
//!
//! Members that the scan does not know are accepted wherever they stand.

mod error;
mod lexer;
mod members;
mod scan;

use std::borrow::Cow;
use std::ops::Range;

pub use error::{EnvelopeError, Reason};
use lexer::Shape;
use scan::Scan;

/// The most containers that may be asked for around a value; deeper would overflow other parsers.
pub const MAX_DEPTH: usize = 256;
/// The longest method, in bytes.
pub const MAX_METHOD_BYTES: usize = 128;
/// The longest id as it is written, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// What may be read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest message.
    pub max_bytes: usize,
    /// How deep arrays and objects may nest, the message itself counting as one; at most [`MAX_DEPTH`].
    pub max_depth: usize,
}

/// What a message is (JSON-RPC 2.0 sections 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A method with an id.
    Request,
    /// A method without an id.
    Notification,
    /// Either a result or an error.
    Response,
}

impl Kind {
    /// The name of the kind.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Notification => "notification",
            Self::Response => "response",
        }
    }
}

/// The id of a request; MCP knows no other types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id<'a> {
    /// A whole number of 64 bits, without fraction or exponent.
    Integer(i64),
    /// A string of at most [`MAX_ID_BYTES`] as written.
    String(Cow<'a, str>),
}

/// Where values stand in the text; a member that is absent has no range. Those of `params` are there for
/// requests and notifications only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// The value of `id`.
    pub id: Option<Range<usize>>,
    /// The value of `params`.
    pub params: Option<Range<usize>>,
    /// The value of `params.name`, whatever its type.
    pub name: Option<Range<usize>>,
    /// The value of `params.uri`, whatever its type.
    pub uri: Option<Range<usize>>,
    /// The value of `params.requestState`, whatever its type.
    pub request_state: Option<Range<usize>>,
    /// The value of `params._meta`.
    pub meta: Option<Range<usize>>,
}

/// What the scan found. A member of the wrong type that only some methods need reads as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Request, notification or response.
    pub kind: Kind,
    /// There for requests and notifications.
    pub method: Option<Cow<'a, str>>,
    /// There for requests and, unless they report an error about no request in particular, responses.
    pub id: Option<Id<'a>>,
    /// `params.name`, if it is a string.
    pub name: Option<Cow<'a, str>>,
    /// `params.uri`, if it is a string.
    pub uri: Option<Cow<'a, str>>,
    /// `params.requestState`, if it is a string.
    pub request_state: Option<Cow<'a, str>>,
    /// `params._meta."io.modelcontextprotocol/protocolVersion"`, if it is a string.
    pub protocol_version: Option<Cow<'a, str>>,
    /// Whether `params._meta` is an object; `null` counts as absent.
    pub has_meta: bool,
    /// Whether `params._meta.progressToken` is a string or an integer.
    pub has_progress_token: bool,
    /// Whether `params` is what the first request for something holds: `arguments`, if they are there, an object,
    /// `requestState`, if it is there, a string or `null`, and no `inputResponses`.
    pub has_plain_params: bool,
    /// `result.resultType`, if `result` is an object and that a string.
    pub result_type: Option<Cow<'a, str>>,
    /// Where the values are that a relay rewrites.
    pub ranges: Ranges,
}

impl<'a> Envelope<'a> {
    /// Reads the message `body`.
    ///
    /// # Errors
    /// [`EnvelopeError`] says why it is none, and the id to answer to as far as it is known.
    pub fn scan(body: &'a [u8], limits: Limits) -> Result<Self, EnvelopeError> {
        if body.len() > limits.max_bytes {
            return Err(EnvelopeError::new(Reason::TooLarge, None));
        }
        let Ok(text) = std::str::from_utf8(body) else {
            return Err(EnvelopeError::new(Reason::InvalidUtf8, None));
        };
        let mut scan = Scan::new(text, limits.max_depth.min(MAX_DEPTH));
        scan.document()
            .and_then(|root| match root.shape {
                Shape::Object => scan.members.read(text),
                Shape::Array => Err(Reason::Batch),
                _ => Err(Reason::NotAnObject),
            })
            .map_err(|reason| EnvelopeError::new(reason, scan.members.answerable_id(text)))
    }
}
