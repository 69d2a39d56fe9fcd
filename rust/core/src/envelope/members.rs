//! The members that the scan knows, and the envelope that they make.

use std::borrow::Cow;
use std::ops::Range;

use super::error::Reason;
use super::lexer::{self, Shape};
use super::{Envelope, Id, Kind, MAX_ID_BYTES, MAX_METHOD_BYTES, Ranges};

const PROTOCOL_VERSION: &[u8] = b"io.modelcontextprotocol/protocolVersion";

/// A value and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) shape: Shape,
    pub(super) start: usize,
    pub(super) end: usize,
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
pub(super) enum Field {
    Root,
    JsonRpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Uri,
    Arguments,
    RequestState,
    InputResponses,
    Meta,
    ProtocolVersion,
    ProgressToken,
    ResultType,
    Unknown,
}

impl Field {
    /// The member `key` of the value that is `self`.
    pub(super) fn member(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Root, b"jsonrpc") => Self::JsonRpc,
            (Self::Root, b"id") => Self::Id,
            (Self::Root, b"method") => Self::Method,
            (Self::Root, b"params") => Self::Params,
            (Self::Root, b"result") => Self::Result,
            (Self::Root, b"error") => Self::Error,
            (Self::Params, b"name") => Self::Name,
            (Self::Params, b"uri") => Self::Uri,
            (Self::Params, b"arguments") => Self::Arguments,
            (Self::Params, b"inputResponses") => Self::InputResponses,
            (Self::Params, b"requestState") => Self::RequestState,
            (Self::Params, b"_meta") => Self::Meta,
            (Self::Result, b"resultType") => Self::ResultType,
            (Self::Meta, b"progressToken") => Self::ProgressToken,
            (Self::Meta, PROTOCOL_VERSION) => Self::ProtocolVersion,
            _ => Self::Unknown,
        }
    }
}

/// The members that the scan knows.
#[derive(Default)]
pub(super) struct Members {
    jsonrpc: Option<Member>,
    pub(super) id: Option<Member>,
    method: Option<Member>,
    params: Option<Member>,
    result: Option<Member>,
    error: Option<Member>,
    name: Option<Member>,
    uri: Option<Member>,
    arguments: Option<Member>,
    request_state: Option<Member>,
    input_responses: Option<Member>,
    meta: Option<Member>,
    protocol_version: Option<Member>,
    progress_token: Option<Member>,
    result_type: Option<Member>,
}

impl Members {
    pub(super) fn note(&mut self, field: Field, member: Member) {
        let slot = match field {
            Field::JsonRpc => &mut self.jsonrpc,
            Field::Id => &mut self.id,
            Field::Method => &mut self.method,
            Field::Params => &mut self.params,
            Field::Result => &mut self.result,
            Field::Error => &mut self.error,
            Field::Name => &mut self.name,
            Field::Uri => &mut self.uri,
            Field::Arguments => &mut self.arguments,
            Field::RequestState => &mut self.request_state,
            Field::InputResponses => &mut self.input_responses,
            Field::Meta => &mut self.meta,
            Field::ProtocolVersion => &mut self.protocol_version,
            Field::ProgressToken => &mut self.progress_token,
            Field::ResultType => &mut self.result_type,
            Field::Root | Field::Unknown => return,
        };
        *slot = Some(member);
    }

    /// The id that an error may be answered with: of a good type, and not of a message that names it twice.
    pub(super) fn answerable_id(&self, text: &str) -> Option<Box<str>> {
        let member = self.id?;
        member.id(text).map(|_| Box::from(member.raw(text)))
    }

    pub(super) fn read<'a>(&self, text: &'a str) -> Result<Envelope<'a>, Reason> {
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
                has_progress_token: false,
                has_plain_params: false,
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
            has_progress_token: self
                .progress_token
                .is_some_and(|member| matches!(member.shape, Shape::Integer | Shape::String { .. })),
            has_plain_params: self.has_plain_params(),
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

    fn has_plain_params(&self) -> bool {
        self.arguments.is_none_or(|member| member.shape == Shape::Object)
            && self
                .request_state
                .is_none_or(|member| matches!(member.shape, Shape::Null | Shape::String { .. }))
            && self.input_responses.is_none()
    }
}

fn is_object_or_null(member: Option<Member>) -> bool {
    member.is_none_or(|member| matches!(member.shape, Shape::Object | Shape::Null))
}
