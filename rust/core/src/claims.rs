//! What the claims of a verified token say about its owner.
//!
//! Invariants: the role `platform_admin` is given by an explicit mapping only, never because a token says so; a
//! claim of the wrong type refuses the token, as guessing at it could widen what its owner may do. A claim that
//! is `null` counts as absent. No text taken from a claim has control characters.

use std::collections::HashMap;

use crate::json::{Json, Object};

/// The longest text that is taken from a claim, in characters.
pub const MAX_TEXT_CHARS: usize = 255;

/// Why claim rules are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRulesError {
    /// Not an RFC 6901 pointer to a member.
    #[error(
        "{0:?} is not a JSON pointer to a claim (RFC 6901): it starts with '/', and '~' stands in '~0' or '~1'"
    )]
    BadPointer(String),
    /// Not the name of a [`Role`].
    #[error("{0:?} is not a role")]
    UnknownRole(String),
    /// The default role must not be the most trusted one.
    #[error("the default role cannot be platform_admin; map a claim value to it instead")]
    DefaultPlatformAdmin,
    /// An organisation name is empty, too long, or has control characters.
    #[error("{0:?} cannot name an organization")]
    BadOrganization(String),
}

/// A claim does not have the type that the rules need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a claim has the wrong type or value")]
pub struct BadClaim;

/// What a principal is within its organisation; the more trusted, the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs the deployment.
    PlatformAdmin,
    /// Runs one organisation.
    OrgAdmin,
    /// Connects accounts and uses tools.
    Member,
    /// Looks.
    Viewer,
    /// Works inside a session.
    Agent,
}

impl Role {
    /// The role of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "platform_admin" => Self::PlatformAdmin,
            "org_admin" => Self::OrgAdmin,
            "member" => Self::Member,
            "viewer" => Self::Viewer,
            "agent" => Self::Agent,
            _ => return None,
        })
    }

    /// The name of the role.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform_admin",
            Self::OrgAdmin => "org_admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
            Self::Agent => "agent",
        }
    }
}

/// An RFC 6901 pointer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Parses the string form; the empty pointer, which means the whole document, names no claim.
    ///
    /// # Errors
    /// [`ClaimRulesError::BadPointer`].
    pub fn parse(text: &str) -> Result<Self, ClaimRulesError> {
        let bad = || ClaimRulesError::BadPointer(text.to_owned());
        let tokens = text.strip_prefix('/').ok_or_else(bad)?;
        tokens
            .split('/')
            .map(unescape)
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(bad)
    }

    fn find<'j, 'a>(&self, claims: &'j Object<'a>) -> Option<&'j Json<'a>> {
        let (first, rest) = self.0.split_first()?;
        let found = rest
            .iter()
            .try_fold(claims.get(first)?, |value, token| match value {
                Json::Object(object) => object.get(token),
                Json::Array(items) => items.get(array_index(token)?),
                _ => None,
            })?;
        (*found != Json::Null).then_some(found)
    }
}

fn unescape(token: &str) -> Option<String> {
    let mut text = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '~' => match characters.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(text)
}

/// RFC 6901 section 4: digits without a leading zero.
fn array_index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with('0');
    (canonical && token.bytes().all(|byte| byte.is_ascii_digit())).then(|| token.parse().ok())?
}

/// [`ClaimRules`] before they are checked.
#[derive(Debug, Clone, Default)]
pub struct ClaimRulesSpec {
    /// Claim that names the organisation: a string, or a list of exactly one.
    pub organization_pointer: Option<String>,
    /// Claim value to organisation; a value that is not listed is taken as it is.
    pub organizations: HashMap<String, String>,
    /// Organisation of tokens without the claim.
    pub organization: Option<String>,
    /// Claim that names the role: a string or a list of strings.
    pub role_pointer: Option<String>,
    /// Claim value to role name; a value that is not listed counts if it is a role name itself.
    pub roles: HashMap<String, String>,
    /// Role of tokens that name none.
    pub default_role: Option<String>,
    /// Claim with the e-mail address.
    pub email_pointer: Option<String>,
    /// Claim with the scopes: a space-separated string or a list of strings.
    pub scope_pointer: Option<String>,
}

/// Where the claims of an issuer's tokens say who the caller is.
#[derive(Debug, Clone, Default)]
pub struct ClaimRules {
    organization_pointer: Option<Pointer>,
    organizations: HashMap<String, String>,
    organization: Option<String>,
    role_pointer: Option<Pointer>,
    roles: HashMap<String, Role>,
    default_role: Option<Role>,
    email_pointer: Option<Pointer>,
    scope_pointer: Option<Pointer>,
}

/// What [`ClaimRules`] found in the claims of one token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The organisation, if the token or the rules name one.
    pub organization: Option<String>,
    /// The most trusted role that the token names, else the default.
    pub role: Option<Role>,
    /// The e-mail address as the issuer wrote it; it proves nothing.
    pub email: Option<String>,
    /// The scopes, each once, in the order of the token.
    pub scopes: Vec<String>,
}

impl ClaimRules {
    /// Checks `spec`.
    ///
    /// # Errors
    /// Any [`ClaimRulesError`].
    pub fn new(spec: ClaimRulesSpec) -> Result<Self, ClaimRulesError> {
        let pointer = |text: Option<String>| text.as_deref().map(Pointer::parse).transpose();
        let role =
            |name: &String| Role::from_name(name).ok_or_else(|| ClaimRulesError::UnknownRole(name.clone()));
        for name in spec.organizations.values().chain(&spec.organization) {
            if clean_text(name).is_err() {
                return Err(ClaimRulesError::BadOrganization(name.clone()));
            }
        }
        let default_role = spec.default_role.as_ref().map(role).transpose()?;
        if default_role == Some(Role::PlatformAdmin) {
            return Err(ClaimRulesError::DefaultPlatformAdmin);
        }
        let roles = spec
            .roles
            .iter()
            .map(|(value, name)| Ok((value.clone(), role(name)?)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            organization_pointer: pointer(spec.organization_pointer)?,
            organizations: spec.organizations,
            organization: spec.organization,
            role_pointer: pointer(spec.role_pointer)?,
            roles,
            default_role,
            email_pointer: pointer(spec.email_pointer)?,
            scope_pointer: pointer(spec.scope_pointer)?,
        })
    }

    /// Reads the claims of a token whose signature is good.
    pub(crate) fn apply(&self, claims: &Object<'_>) -> Result<Identity, BadClaim> {
        let find = |pointer: &Option<Pointer>| pointer.as_ref().and_then(|pointer| pointer.find(claims));
        Ok(Identity {
            organization: match find(&self.organization_pointer) {
                Some(claim) => Some(self.organization_of(claim)?),
                None => self.organization.clone(),
            },
            role: match find(&self.role_pointer) {
                Some(claim) => self.role_of(claim)?,
                None => self.default_role,
            },
            email: find(&self.email_pointer)
                .map(text_of)
                .transpose()?
                .map(str::to_owned),
            scopes: find(&self.scope_pointer)
                .map(scopes_of)
                .transpose()?
                .unwrap_or_default(),
        })
    }

    fn organization_of(&self, claim: &Json<'_>) -> Result<String, BadClaim> {
        let name = match claim {
            Json::Array(items) => match items.as_slice() {
                [only] => text_of(only)?,
                _ => return Err(BadClaim),
            },
            other => text_of(other)?,
        };
        Ok(self
            .organizations
            .get(name)
            .map_or(name, String::as_str)
            .to_owned())
    }

    fn role_of(&self, claim: &Json<'_>) -> Result<Option<Role>, BadClaim> {
        let mut best = None;
        for value in strings_of(claim)? {
            let role = self.roles.get(value).copied().or_else(|| unmapped_role(value));
            best = match (best, role) {
                (Some(best), Some(role)) => Some(Role::min(best, role)),
                (best, role) => best.or(role),
            };
        }
        Ok(best.or(self.default_role))
    }
}

/// A role that a token may name without a mapping.
fn unmapped_role(name: &str) -> Option<Role> {
    Role::from_name(name).filter(|role| *role != Role::PlatformAdmin)
}

fn strings_of<'j>(claim: &'j Json<'_>) -> Result<Vec<&'j str>, BadClaim> {
    match claim {
        Json::String(text) => Ok(vec![text]),
        Json::Array(items) => items.iter().map(|item| item.as_str().ok_or(BadClaim)).collect(),
        _ => Err(BadClaim),
    }
}

fn scopes_of(claim: &Json<'_>) -> Result<Vec<String>, BadClaim> {
    let mut scopes: Vec<&str> = Vec::new();
    for text in strings_of(claim)? {
        if text.chars().any(char::is_control) {
            return Err(BadClaim);
        }
        scopes.extend(text.split(' ').filter(|scope| !scope.is_empty()));
    }
    let mut seen = std::collections::HashSet::with_capacity(scopes.len());
    Ok(scopes
        .into_iter()
        .filter(|scope| seen.insert(*scope))
        .map(str::to_owned)
        .collect())
}

fn text_of<'j>(claim: &'j Json<'_>) -> Result<&'j str, BadClaim> {
    clean_text(claim.as_str().ok_or(BadClaim)?)
}

/// Text that a database, a log and a header can all carry.
pub(crate) fn clean_text(text: &str) -> Result<&str, BadClaim> {
    let fits =
        !text.is_empty() && text.chars().count() <= MAX_TEXT_CHARS && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(BadClaim) }
}
