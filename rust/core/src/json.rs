//! Strict JSON: what two parsers could read differently is refused.
//!
//! Invariants: no object holds a key twice, containers nest at most [`MAX_DEPTH`] deep, the text is valid UTF-8
//! and nothing follows the value. Strings without escapes are borrowed from the input, so that a secret in
//! the text is not copied by parsing it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How deep arrays and objects may nest.
pub(crate) const MAX_DEPTH: u8 = 16;

/// The text is not strict JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not strict JSON")]
pub(crate) struct JsonError;

/// One JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool,
    Int(i64),
    /// A number with a fraction or an exponent, or beyond 64 bits.
    Float(f64),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// The members of an object, sorted by key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    /// Parses a text whose value must be an object.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, JsonError> {
        match Json::parse(text)? {
            Json::Object(object) => Ok(object),
            _ => Err(JsonError),
        }
    }

    /// The value under `key`; a `null` counts as there.
    pub(crate) fn get(&self, key: &str) -> Option<&Json<'a>> {
        let at = self.0.binary_search_by(|(name, _)| name.as_ref().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }
}

impl<'a> Json<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, JsonError> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let value = Seed {
            depth_left: MAX_DEPTH,
        }
        .deserialize(&mut deserializer)
        .map_err(|_| JsonError)?;
        deserializer.end().map_err(|_| JsonError)?;
        Ok(value)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }
}

/// Reads one value with at most `depth_left` containers around its innermost scalar.
struct Seed {
    depth_left: u8,
}

impl Seed {
    fn nested<E: serde::de::Error>(&self) -> Result<u8, E> {
        self.depth_left
            .checked_sub(1)
            .ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "no number that large has a use for its last digits"
    )]
    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Float(value as f64), Json::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let depth_left = self.nested()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Seed { depth_left })? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let depth_left = self.nested()?;
        let mut object = Vec::new();
        while let Some(key) = members.next_key_seed(KeySeed)? {
            object.push((key, members.next_value_seed(Seed { depth_left })?));
        }
        object.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        if object.is_sorted_by(|(left, _), (right, _)| left < right) {
            Ok(Json::Object(Object(object)))
        } else {
            Err(A::Error::custom("duplicate key"))
        }
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object key")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_duplicate_keys_at_any_level_and_behind_escapes() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"a":1,"b":2,"a":3}]}"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            assert_eq!(Json::parse(text.as_bytes()), Err(JsonError), "{text}");
        }
    }

    #[test]
    fn limits_depth() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Json::parse(nested(16).as_bytes()).is_ok());
        assert!(Json::parse(nested(17).as_bytes()).is_err());
        assert!(Json::parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn refuses_what_is_not_json() {
        let cases: [&[u8]; 8] = [
            b"",
            b"{} x",
            b"{\"a\":NaN}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            b"[1,]",
            b"1e999",
            b"\"\\ud800\"",
        ];
        for text in cases {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn finds_members_and_borrows_plain_strings() {
        let object = Object::parse(br#"{"b":"two","a":1,"c":2.5,"d":18446744073709551615}"#).unwrap();
        assert_eq!(object.get("a"), Some(&Json::Int(1)));
        assert!(matches!(
            object.get("b"),
            Some(Json::String(Cow::Borrowed("two")))
        ));
        assert_eq!(object.get("c"), Some(&Json::Float(2.5)));
        assert!(matches!(object.get("d"), Some(Json::Float(_))));
        assert_eq!(object.get("e"), None);
    }
}
