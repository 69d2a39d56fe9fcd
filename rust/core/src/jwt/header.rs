//! The protected header of a token.

use super::error::TokenError;
use crate::json::{Json, Object};
use crate::jwks::Algorithm;

/// What of the protected header has a say.
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
}

impl Header {
    pub(super) fn parse(text: &[u8]) -> Result<Self, TokenError> {
        let header = Object::parse(text).map_err(|_| TokenError::Malformed)?;
        if ["crit", "b64"].iter().any(|name| header.get(name).is_some()) {
            return Err(TokenError::Malformed);
        }
        if let Some(media_type) = header.get("typ") {
            let media_type = media_type
                .as_str()
                .ok_or(TokenError::Malformed)?
                .to_ascii_lowercase();
            let short = media_type.strip_prefix("application/").unwrap_or(&media_type);
            if !matches!(short, "jwt" | "at+jwt") {
                return Err(TokenError::Malformed);
            }
        }
        let key_id = match header.get("kid") {
            Some(claim) => Some(claim.as_str().ok_or(TokenError::Malformed)?.to_owned()),
            None => None,
        };
        let name = header
            .get("alg")
            .and_then(Json::as_str)
            .ok_or(TokenError::Malformed)?;
        let algorithm = Algorithm::from_name(name).ok_or(TokenError::UnsupportedAlgorithm)?;
        Ok(Self { algorithm, key_id })
    }
}
