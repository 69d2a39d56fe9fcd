//! The tokens of JSON (RFC 8259), read where they stand.

use std::borrow::Cow;

use super::error::Reason;

/// The longest number as it is written; what is longer is hardly meant and slow to read.
const MAX_NUMBER_BYTES: usize = 1024;
/// A number of fewer digits and no exponent is finite as a double.
const SURELY_FINITE_BYTES: usize = 300;

const WORD: usize = size_of::<u64>();
const ONES: u64 = u64::from_ne_bytes([0x01; WORD]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; WORD]);
const SPACES: u64 = u64::from_ne_bytes([b' '; WORD]);
const QUOTES: u64 = u64::from_ne_bytes([b'"'; WORD]);
const BACKSLASHES: u64 = u64::from_ne_bytes([b'\\'; WORD]);

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Null,
    Bool,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number; `-0` is one, as many parsers keep its sign and then write it differently.
    Float,
    String {
        has_escapes: bool,
    },
    Array,
    Object,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The first byte of the next token, which is not taken.
    pub(super) fn peek_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.bump(),
                other => return other,
            }
        }
    }

    pub(super) fn bump(&mut self) {
        self.at += 1;
    }

    /// Reads a value that is no container.
    pub(super) fn scalar(&mut self) -> Result<Shape, Reason> {
        match self.peek() {
            Some(b'"') => {
                self.bump();
                let has_escapes = self.skip_string()?;
                Ok(Shape::String { has_escapes })
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Shape::Bool),
            Some(b'f') => self.word("false", Shape::Bool),
            Some(b'n') => self.word("null", Shape::Null),
            _ => Err(Reason::InvalidJson),
        }
    }

    /// Reads the string that begins here.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Reason> {
        self.bump();
        let start = self.at;
        let has_escapes = self.skip_string()?;
        let inner = self.text.get(start..self.at - 1).ok_or(Reason::InvalidJson)?;
        Ok(unescape(inner, has_escapes))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += 1;
        byte
    }

    fn word(&mut self, word: &str, shape: Shape) -> Result<Shape, Reason> {
        let end = self.at + word.len();
        if self.text.as_bytes().get(self.at..end) == Some(word.as_bytes()) {
            self.at = end;
            Ok(shape)
        } else {
            Err(Reason::InvalidJson)
        }
    }

    /// Goes behind the closing quote; says whether there were escapes.
    fn skip_string(&mut self) -> Result<bool, Reason> {
        let mut has_escapes = false;
        loop {
            self.skip_plain();
            match self.next() {
                Some(b'"') => return Ok(has_escapes),
                Some(b'\\') => {
                    has_escapes = true;
                    self.skip_escape()?;
                }
                Some(b' '..) => {}
                Some(_) | None => return Err(Reason::InvalidJson),
            }
        }
    }

    /// Goes over eight bytes at a time, none of which is a quote, a backslash or a control character.
    fn skip_plain(&mut self) {
        while let Some((word, _)) = self
            .text
            .as_bytes()
            .get(self.at..)
            .and_then(|rest| rest.split_first_chunk())
        {
            let special = special_bytes(u64::from_le_bytes(*word));
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += WORD;
        }
    }

    fn skip_escape(&mut self) -> Result<(), Reason> {
        match self.next() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => match self.hex4()? {
                0xD800..=0xDBFF => {
                    let (Some(b'\\'), Some(b'u')) = (self.next(), self.next()) else {
                        return Err(Reason::LoneSurrogate);
                    };
                    match self.hex4()? {
                        0xDC00..=0xDFFF => Ok(()),
                        _ => Err(Reason::LoneSurrogate),
                    }
                }
                0xDC00..=0xDFFF => Err(Reason::LoneSurrogate),
                _ => Ok(()),
            },
            _ => Err(Reason::InvalidJson),
        }
    }

    fn hex4(&mut self) -> Result<u32, Reason> {
        (0..4).try_fold(0, |value, _| {
            let digit = self.next().and_then(|byte| char::from(byte).to_digit(16));
            Ok(value << 4 | digit.ok_or(Reason::InvalidJson)?)
        })
    }

    fn number(&mut self) -> Result<Shape, Reason> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.bump();
        }
        if self.peek() == Some(b'0') {
            self.bump();
        } else {
            self.digits()?;
        }
        let mut shape = Shape::Integer;
        if self.peek() == Some(b'.') {
            self.bump();
            self.digits()?;
            shape = Shape::Float;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.bump();
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.bump();
            }
            self.digits()?;
            shape = Shape::Float;
        }
        let length = self.at - start;
        if self.text.get(start..self.at) == Some("-0") {
            shape = Shape::Float;
        }
        if length > MAX_NUMBER_BYTES {
            return Err(Reason::NumberOutOfRange);
        }
        if has_exponent || length > SURELY_FINITE_BYTES {
            let value = self
                .text
                .get(start..self.at)
                .and_then(|text| text.parse::<f64>().ok());
            if !value.is_some_and(f64::is_finite) {
                return Err(Reason::NumberOutOfRange);
            }
        }
        Ok(shape)
    }

    /// Goes over one digit or more.
    fn digits(&mut self) -> Result<(), Reason> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.bump();
        }
        if self.at > start {
            Ok(())
        } else {
            Err(Reason::InvalidJson)
        }
    }
}

/// The high bit of each byte that ends a plain run: a quote, a backslash or a control character. Above the first
/// such byte there may be others that are none, as a borrow runs upward; below it there are none.
fn special_bytes(word: u64) -> u64 {
    let below = |word: u64, limit: u64| word.wrapping_sub(limit) & !word;
    let controls = below(word, SPACES);
    let quotes = below(word ^ QUOTES, ONES);
    let backslashes = below(word ^ BACKSLASHES, ONES);
    (controls | quotes | backslashes) & HIGHS
}

/// The text of a string that was read before.
pub(super) fn unescape(inner: &str, has_escapes: bool) -> Cow<'_, str> {
    if !has_escapes {
        return Cow::Borrowed(inner);
    }
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut characters = escaped.chars();
        let character = match characters.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let unit = take_unit(&mut characters);
                if let Some(high @ 0..0x400) = unit.checked_sub(0xD800) {
                    characters.next();
                    characters.next();
                    let low = take_unit(&mut characters).saturating_sub(0xDC00);
                    decoded(0x1_0000 + (high << 10) + low)
                } else {
                    decoded(unit)
                }
            }
            Some(itself) => itself,
            None => char::REPLACEMENT_CHARACTER,
        };
        text.push(character);
        rest = characters.as_str();
    }
    text.push_str(rest);
    Cow::Owned(text)
}

fn take_unit(characters: &mut std::str::Chars<'_>) -> u32 {
    characters
        .by_ref()
        .take(4)
        .fold(0, |unit, digit| unit << 4 | digit.to_digit(16).unwrap_or(0))
}

fn decoded(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}
