//! One pass over the text: containers, their keys, and which member each value is.

use std::borrow::Cow;

use super::error::Reason;
use super::lexer::{Lexer, Shape};
use super::members::{Field, Member, Members};

/// Fewer keys are compared each with each.
const FEW_KEYS: usize = 8;

/// A container that has begun and not ended.
struct Open {
    field: Field,
    is_object: bool,
    start: usize,
    /// How many keys there were before its own.
    keys_before: usize,
}

pub(super) struct Scan<'a> {
    lexer: Lexer<'a>,
    max_depth: usize,
    open: Vec<Open>,
    /// The keys of the open objects, outermost first.
    keys: Vec<Cow<'a, str>>,
    pub(super) members: Members,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str, max_depth: usize) -> Self {
        Self {
            lexer: Lexer::new(text),
            max_depth,
            open: Vec::with_capacity(8),
            keys: Vec::with_capacity(16),
            members: Members::default(),
        }
    }

    /// Reads the whole text as one value.
    pub(super) fn document(&mut self) -> Result<Member, Reason> {
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
