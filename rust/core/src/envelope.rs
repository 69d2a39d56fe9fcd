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

use std::borrow::Cow;
use std::ops::Range;

pub use error::{EnvelopeError, Reason};
use lexer::{Lexer, Shape};

/// The most containers that may be asked for around a value; deeper would overflow other parsers.
pub const MAX_DEPTH: usize = 256;
/// The longest method, in bytes.
pub const MAX_METHOD_BYTES: usize = 128;
/// The longest id as it is written, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

const PROTOCOL_VERSION: &[u8] = b"io.modelcontextprotocol/protocolVersion";
const CLIENT_CAPABILITIES: &[u8] = b"io.modelcontextprotocol/clientCapabilities";

/// Fewer keys are compared each with each.
const FEW_KEYS: usize = 8;

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
    /// Whether `params._meta."io.modelcontextprotocol/clientCapabilities"` is an object.
    pub has_client_capabilities: bool,
    /// Whether `params._meta.progressToken` is a string or an integer.
    pub has_progress_token: bool,
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

/// A value and where it stands.
#[derive(Clone, Copy)]
struct Member {
    shape: Shape,
    start: usize,
    end: usize,
}

impl Member {
    fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    fn raw<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.range()).unwrap_or_default()
    }

    /// The value, if it is a string.
    fn text<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let Shape::String { has_escapes } = self.shape else {
            return None;
        };
        let inner = self
            .raw(text)
            .strip_prefix('"')
            .and_then(|raw| raw.strip_suffix('"'))?;
        Some(lexer::unescape(inner, has_escapes))
    }

    fn id<'a>(&self, text: &'a str) -> Option<Id<'a>> {
        let raw = self.raw(text);
        match self.shape {
            Shape::Integer => raw.parse().ok().map(Id::Integer),
            Shape::String { .. } if raw.len() <= MAX_ID_BYTES => self.text(text).map(Id::String),
            _ => None,
        }
    }
}

/// Which member a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Root,
    JsonRpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Uri,
    RequestState,
    Meta,
    ProtocolVersion,
    ClientCapabilities,
    ProgressToken,
    ResultType,
    Unknown,
}

impl Field {
    /// The member `key` of the value that is `self`.
    fn member(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Root, b"jsonrpc") => Self::JsonRpc,
            (Self::Root, b"id") => Self::Id,
            (Self::Root, b"method") => Self::Method,
            (Self::Root, b"params") => Self::Params,
            (Self::Root, b"result") => Self::Result,
            (Self::Root, b"error") => Self::Error,
            (Self::Params, b"name") => Self::Name,
            (Self::Params, b"uri") => Self::Uri,
            (Self::Params, b"requestState") => Self::RequestState,
            (Self::Params, b"_meta") => Self::Meta,
            (Self::Result, b"resultType") => Self::ResultType,
            (Self::Meta, b"progressToken") => Self::ProgressToken,
            (Self::Meta, PROTOCOL_VERSION) => Self::ProtocolVersion,
            (Self::Meta, CLIENT_CAPABILITIES) => Self::ClientCapabilities,
            _ => Self::Unknown,
        }
    }
}

/// The members that the scan knows.
#[derive(Default)]
struct Members {
    jsonrpc: Option<Member>,
    id: Option<Member>,
    method: Option<Member>,
    params: Option<Member>,
    result: Option<Member>,
    error: Option<Member>,
    name: Option<Member>,
    uri: Option<Member>,
    request_state: Option<Member>,
    meta: Option<Member>,
    protocol_version: Option<Member>,
    client_capabilities: Option<Member>,
    progress_token: Option<Member>,
    result_type: Option<Member>,
}

impl Members {
    fn note(&mut self, field: Field, member: Member) {
        let slot = match field {
            Field::JsonRpc => &mut self.jsonrpc,
            Field::Id => &mut self.id,
            Field::Method => &mut self.method,
            Field::Params => &mut self.params,
            Field::Result => &mut self.result,
            Field::Error => &mut self.error,
            Field::Name => &mut self.name,
            Field::Uri => &mut self.uri,
            Field::RequestState => &mut self.request_state,
            Field::Meta => &mut self.meta,
            Field::ProtocolVersion => &mut self.protocol_version,
            Field::ClientCapabilities => &mut self.client_capabilities,
            Field::ProgressToken => &mut self.progress_token,
            Field::ResultType => &mut self.result_type,
            Field::Root | Field::Unknown => return,
        };
        *slot = Some(member);
    }

    /// The id that an error may be answered with: of a good type, and not of a message that names it twice.
    fn answerable_id(&self, text: &str) -> Option<Box<str>> {
        let member = self.id?;
        member.id(text).map(|_| Box::from(member.raw(text)))
    }

    fn read<'a>(&self, text: &'a str) -> Result<Envelope<'a>, Reason> {
        if self
            .jsonrpc
            .and_then(|member| member.text(text))
            .is_none_or(|version| version != "2.0")
        {
            return Err(Reason::BadVersion);
        }
        let id = self.id.and_then(|member| member.id(text));
        match (self.method, self.result, self.error) {
            (Some(method), None, None) => {
                if self.id.is_some() && id.is_none() {
                    return Err(Reason::BadId);
                }
                self.read_call(text, method, id)
            }
            (None, Some(_), None) if id.is_none() => Err(Reason::BadId),
            (None, None, Some(_)) if id.is_none() && self.id.is_some_and(|id| id.shape != Shape::Null) => {
                Err(Reason::BadId)
            }
            (None, Some(_), None) | (None, None, Some(_)) => Ok(Envelope {
                kind: Kind::Response,
                method: None,
                id,
                name: None,
                uri: None,
                request_state: None,
                protocol_version: None,
                has_meta: false,
                has_client_capabilities: false,
                has_progress_token: false,
                result_type: self.result_type.and_then(|member| member.text(text)),
                ranges: Ranges {
                    id: self.id.map(|member| member.range()),
                    ..Ranges::default()
                },
            }),
            _ => Err(Reason::NotAMessage),
        }
    }

    /// Reads a request, or a notification if there is no id.
    fn read_call<'a>(
        &self,
        text: &'a str,
        method: Member,
        id: Option<Id<'a>>,
    ) -> Result<Envelope<'a>, Reason> {
        let method = method
            .text(text)
            .filter(|method| method.len() <= MAX_METHOD_BYTES)
            .ok_or(Reason::BadMethod)?;
        if !is_object_or_null(self.params) {
            return Err(Reason::BadParams);
        }
        if !is_object_or_null(self.meta) {
            return Err(Reason::BadMeta);
        }
        let text_of = |member: Option<Member>| member.and_then(|member| member.text(text));
        let range_of = |member: Option<Member>| member.map(|member| member.range());
        let is_object = |member: Option<Member>| member.is_some_and(|member| member.shape == Shape::Object);
        Ok(Envelope {
            kind: if id.is_some() {
                Kind::Request
            } else {
                Kind::Notification
            },
            method: Some(method),
            id,
            name: text_of(self.name),
            uri: text_of(self.uri),
            request_state: text_of(self.request_state),
            protocol_version: text_of(self.protocol_version),
            has_meta: is_object(self.meta),
            has_client_capabilities: is_object(self.client_capabilities),
            has_progress_token: self
                .progress_token
                .is_some_and(|member| matches!(member.shape, Shape::Integer | Shape::String { .. })),
            result_type: None,
            ranges: Ranges {
                id: range_of(self.id),
                params: range_of(self.params),
                name: range_of(self.name),
                uri: range_of(self.uri),
                request_state: range_of(self.request_state),
                meta: range_of(self.meta),
            },
        })
    }
}

fn is_object_or_null(member: Option<Member>) -> bool {
    member.is_none_or(|member| matches!(member.shape, Shape::Object | Shape::Null))
}

/// A container that has begun and not ended.
struct Open {
    field: Field,
    is_object: bool,
    start: usize,
    /// How many keys there were before its own.
    keys_before: usize,
}

struct Scan<'a> {
    lexer: Lexer<'a>,
    max_depth: usize,
    open: Vec<Open>,
    /// The keys of the open objects, outermost first.
    keys: Vec<Cow<'a, str>>,
    members: Members,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str, max_depth: usize) -> Self {
        Self {
            lexer: Lexer::new(text),
            max_depth,
            open: Vec::with_capacity(8),
            keys: Vec::with_capacity(16),
            members: Members::default(),
        }
    }

    /// Reads the whole text as one value.
    fn document(&mut self) -> Result<Member, Reason> {
        let mut field = Field::Root;
        let root = loop {
            let mut member = match self.lexer.peek_token() {
                Some(b'{') => {
                    self.enter(field, true)?;
                    if self.lexer.peek_token() != Some(b'}') {
                        field = self.key(field)?;
                        continue;
                    }
                    self.lexer.bump();
                    self.leave()?.1
                }
                Some(b'[') => {
                    self.enter(field, false)?;
                    if self.lexer.peek_token() != Some(b']') {
                        field = Field::Unknown;
                        continue;
                    }
                    self.lexer.bump();
                    self.leave()?.1
                }
                _ => {
                    let start = self.lexer.position();
                    let shape = self.lexer.scalar()?;
                    let end = self.lexer.position();
                    Member { shape, start, end }
                }
            };
            // A value has ended; so may the containers around it.
            let next = loop {
                self.members.note(field, member);
                let Some(around) = self.open.last() else {
                    break None;
                };
                let (of, is_object) = (around.field, around.is_object);
                let token = self.lexer.peek_token();
                self.lexer.bump();
                match (token, is_object) {
                    (Some(b','), true) => break Some(self.key(of)?),
                    (Some(b','), false) => break Some(Field::Unknown),
                    (Some(b'}'), true) | (Some(b']'), false) => (field, member) = self.leave()?,
                    _ => return Err(Reason::InvalidJson),
                }
            };
            match next {
                Some(next) => field = next,
                None => break member,
            }
        };
        match self.lexer.peek_token() {
            None => Ok(root),
            Some(_) => Err(Reason::InvalidJson),
        }
    }

    fn enter(&mut self, field: Field, is_object: bool) -> Result<(), Reason> {
        if self.open.len() >= self.max_depth {
            return Err(Reason::TooDeep);
        }
        self.open.push(Open {
            field,
            is_object,
            start: self.lexer.position(),
            keys_before: self.keys.len(),
        });
        self.lexer.bump();
        Ok(())
    }

    /// Ends the innermost container, whose last byte was read.
    fn leave(&mut self) -> Result<(Field, Member), Reason> {
        let ended = self.open.pop().ok_or(Reason::InvalidJson)?;
        let keys = self.keys.get_mut(ended.keys_before..).unwrap_or_default();
        if has_twins(keys) {
            if ended.field == Field::Root {
                self.members.id = None;
            }
            return Err(Reason::DuplicateKey);
        }
        self.keys.truncate(ended.keys_before);
        let shape = if ended.is_object {
            Shape::Object
        } else {
            Shape::Array
        };
        let member = Member {
            shape,
            start: ended.start,
            end: self.lexer.position(),
        };
        Ok((ended.field, member))
    }

    /// Reads a key and its colon, and says which member of the object `of` follows.
    fn key(&mut self, of: Field) -> Result<Field, Reason> {
        if self.lexer.peek_token() != Some(b'"') {
            return Err(Reason::InvalidJson);
        }
        let key = self.lexer.string()?;
        if self.lexer.peek_token() != Some(b':') {
            return Err(Reason::InvalidJson);
        }
        self.lexer.bump();
        let field = of.member(key.as_bytes());
        self.keys.push(key);
        Ok(field)
    }
}

fn has_twins(keys: &mut [Cow<'_, str>]) -> bool {
    if keys.len() <= FEW_KEYS {
        let mut rest: &[Cow<'_, str>] = keys;
        while let Some((key, others)) = rest.split_first() {
            if others.contains(key) {
                return true;
            }
            rest = others;
        }
        return false;
    }
    keys.sort_unstable();
    !keys.is_sorted_by(|left, right| left < right)
}
