"""Type stub of the Rust extension; stubtest keeps it equal to the binary.

All classes are frozen and safe to share between threads. Times are Unix seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, final

__all__ = [
    "ClaimRules",
    "Envelope",
    "EnvelopeError",
    "IssuerPolicy",
    "KeySetError",
    "Keyring",
    "KeyringError",
    "RevocationError",
    "SealError",
    "TokenError",
    "TokenVerifier",
    "UnknownKeyError",
    "VerifiedToken",
    "scan_envelope",
]

class TokenError(Exception):
    """A token is not acceptable.

    The message is one and the same for every cause, so that it may be shown; ``reason`` is for the log.
    """

    reason: Literal[
        "malformed",
        "too_large",
        "unsupported_algorithm",
        "unknown_issuer",
        "bad_signature",
        "expired",
        "revoked",
        "not_yet_valid",
        "wrong_audience",
        "missing_claim",
        "bad_claim",
        "unknown_key",
        "no_key_set",
    ]

class UnknownKeyError(TokenError):
    """The key set of ``issuer`` has no such key or is not loaded yet: refresh it and try once more.

    The token is not authenticated, so the refresh must be limited per issuer.
    """

    issuer: str

class KeySetError(ValueError):
    """A key set cannot be used; the issuer's old one stays."""

class RevocationError(Exception):
    """A revocation is not taken on: the issuer is unknown, no token has such a name, or the list is full."""

class SealError(Exception):
    """A value cannot be sealed or opened. Every failure to open has the same message."""

class KeyringError(ValueError):
    """A keyring cannot be used. The message never holds a part of a key."""

@final
class ClaimRules:
    """Where the claims of an issuer's tokens say who the caller is.

    Pointers are RFC 6901 JSON pointers. A claim of the wrong type refuses the token; ``null`` counts as
    absent. The role ``platform_admin`` is given by an explicit entry of ``roles`` only.
    """

    def __new__(
        cls,
        *,
        organization_pointer: str | None = None,
        organizations: Mapping[str, str] | None = None,
        organization: str | None = None,
        role_pointer: str | None = None,
        roles: Mapping[str, str] | None = None,
        default_role: str | None = None,
        email_pointer: str | None = "/email",
        scope_pointer: str | None = "/scope",
    ) -> ClaimRules:
        """Check the rules.

        Args:
            organization_pointer: Claim that names the organisation: a string, or a list of exactly one.
            organizations: Claim value to organisation; a value that is not listed is taken as it is.
            organization: Organisation of tokens without the claim.
            role_pointer: Claim that names the role: a string or a list, of which the most trusted role wins.
            roles: Claim value to role; a value that is not listed counts if it is a role name itself.
            default_role: Role of tokens that name none; not ``platform_admin``.
            email_pointer: Claim with the e-mail address.
            scope_pointer: Claim with the scopes: a space-separated string or a list of strings.

        Raises:
            ValueError: A pointer, role or organisation is not one.
        """

@final
class IssuerPolicy:
    """One authorization server whose tokens are accepted."""

    def __new__(
        cls,
        *,
        issuer: str,
        audiences: Sequence[str] = (),
        shared_secret: bytes | None = None,
        claims: ClaimRules | None = None,
    ) -> IssuerPolicy:
        """Check the policy.

        Args:
            issuer: Compared exactly with the ``iss`` claim.
            audiences: Accepted ``aud`` values besides the audience of each verification.
            shared_secret: HS256 secret of at least 32 bytes; the issuer is then believed for nothing else.
            claims: Defaults to ``ClaimRules()``.

        Raises:
            ValueError: A name is empty or the secret too short.
        """

    @property
    def issuer(self) -> str:
        """The exact ``iss`` of the issuer's tokens."""

@final
class VerifiedToken:
    """What a verified token says about its owner.

    Only ``TokenVerifier.verify`` makes one. It can be the key of a ``WeakKeyDictionary``: as long as the
    token is remembered, the same object comes back.
    """

    @property
    def issuer(self) -> str:
        """The ``iss`` claim."""

    @property
    def subject(self) -> str:
        """The ``sub`` claim: 1 to 255 characters, none of them a control character."""

    @property
    def organization(self) -> str | None:
        """The organisation that the issuer's claim rules found."""

    @property
    def role(self) -> Literal["platform_admin", "org_admin", "member", "viewer", "agent"] | None:
        """The role that the issuer's claim rules found."""

    @property
    def email(self) -> str | None:
        """The e-mail address as the issuer wrote it; it proves nothing."""

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that the issuer's claim rules found."""

    @property
    def audiences(self) -> tuple[str, ...]:
        """The ``aud`` claim."""

    @property
    def expires_at(self) -> int:
        """The ``exp`` claim, rounded down."""

    @property
    def token_id(self) -> str | None:
        """The ``jti`` claim."""

    @property
    def key_id(self) -> str | None:
        """The ``kid`` of the key that verified the token."""

@final
class TokenVerifier:
    """Verifies the tokens of several issuers.

    A token is remembered until it expires or its key leaves the set; time and audience are checked each time.
    """

    def __new__(
        cls, issuers: Sequence[IssuerPolicy], *, leeway_s: int = 30, cache_entries: int = 100_000
    ) -> TokenVerifier:
        """Build a verifier; an issuer without a shared secret has no key until ``replace_keys``.

        Args:
            issuers: At most one policy for each issuer.
            leeway_s: Tolerated difference between clocks, 0 to 300 seconds.
            cache_entries: Most tokens that are remembered; 0 remembers none.

        Raises:
            ValueError: Two policies name one issuer, or the leeway is out of range.
        """

    def replace_keys(self, issuer: str, jwks: bytes) -> int:
        """Put a key set (RFC 7517) in the place of the issuer's and return how many keys are usable.

        Keys that stay keep the tokens they have verified; the others' tokens are forgotten.

        Raises:
            KeySetError: The set is malformed, over its limits, ambiguous or without a usable key, or the
                issuer is unknown or has a shared secret. The old set stays.
        """

    def verify(self, token: str, audience: str, now: int | None = None) -> VerifiedToken:
        """Verify a compact JWS (RFC 7515) with JWT claims (RFC 7519).

        Args:
            token: The token as it came.
            audience: Accepted ``aud`` value besides those of the issuer's policy; an empty one matches none.
            now: Unix seconds; by default the system's clock.

        Raises:
            UnknownKeyError: The issuer's key set may be out of date.
            TokenError: The token is not acceptable.
        """

    def revoke_token(self, issuer: str, jti: str, expires_at: int, *, now: int | None = None) -> None:
        """Refuse a token from now on, whether it is remembered or seen for the first time.

        Once this has returned no thread gets the token any more. Another process is not told.

        Args:
            issuer: The issuer of the token.
            jti: Its ``jti`` claim.
            expires_at: Its ``exp`` claim, or later: when the entry may be dropped.
            now: Unix seconds; by default the system's clock.

        Raises:
            RevocationError: The issuer is unknown, no token has such a ``jti``, or 100,000 entries are listed.
        """

    def revoke_subject(
        self,
        issuer: str,
        subject: str,
        issued_before: int,
        *,
        expires_at: int | None = None,
        now: int | None = None,
    ) -> None:
        """Refuse from now on what an issuer gave a subject before a moment, as ``revoke_token`` does.

        Args:
            issuer: The issuer of the tokens.
            subject: Their ``sub`` claim.
            issued_before: An ``iat`` claim below this, or none, is refused; rounded down to seconds.
            expires_at: The last ``exp`` of such a token, or later; without it the entry stays.
            now: Unix seconds; by default the system's clock.

        Raises:
            RevocationError: As for ``revoke_token``.
        """

    @property
    def revocations(self) -> int:
        """How many revocations are listed."""

    @property
    def cached_tokens(self) -> int:
        """How many tokens are remembered."""

@final
class Keyring:
    """The sealing keys of a deployment: the active one seals, all of them open.

    AES-256-GCM with random nonces; a key seals at most 2**32 values per loaded keyring.
    """

    @staticmethod
    def parse(text: str) -> Keyring:
        """Parse the text form, ``{"active":"k1","keys":{"k1":"<32 bytes in base64url>"}}``.

        Raises:
            KeyringError: The text is not of that form.
        """

    @staticmethod
    def generate(key_id: str) -> str:
        """Return the text form of a keyring with one new key.

        Raises:
            KeyringError: The id is not 1 to 32 characters from ``a-z``, ``0-9`` and ``-``.
        """

    @staticmethod
    def rotate(text: str, key_id: str) -> str:
        """Return the text form of the keyring ``text`` with a new active key beside the old ones.

        Raises:
            KeyringError: The text is no keyring, or the id is taken or not of the right form.
        """

    @property
    def active_key_id(self) -> str:
        """The id of the key that seals."""

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, sorted."""

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """Seal at most 1 MiB; it opens with the same associated data alone.

        Raises:
            SealError: The value is too large, or the active key has sealed as much as it may.
        """

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Open a sealed value.

        Raises:
            SealError: Changed, cut, sealed for another place or by a key that is not here: no telling which.
        """

    def reseal(self, sealed: bytes, aad: bytes) -> bytes:
        """Open a sealed value and seal it again under the active key, with a fresh nonce.

        Raises:
            SealError: As for ``open`` and ``seal``.
        """

    def seal_until(self, plaintext: bytes, aad: bytes, expires_at: int) -> bytes:
        """Seal at most 1 MiB; it opens by ``open_unexpired`` with the same associated data before ``expires_at``.

        Raises:
            SealError: As for ``seal``.
        """

    def open_unexpired(self, sealed: bytes, aad: bytes, now: int) -> bytes:
        """Open a value of ``seal_until``.

        Raises:
            SealError: ``now`` is not before its expiry, or any cause that ``open`` has: no telling which.
        """

    def seal_text_until(self, plaintext: bytes, aad: bytes, expires_at: int) -> str:
        """Seal as ``seal_until`` does, in base64url without padding: for a session id or a ``requestState``.

        Raises:
            SealError: As for ``seal``.
        """

    def open_text_unexpired(self, sealed: str, aad: bytes, now: int) -> bytes:
        """Open a value of ``seal_text_until``.

        Raises:
            SealError: As for ``open_unexpired``.
        """

class EnvelopeError(Exception):
    """A JSON-RPC message is refused."""

    reason: Literal[
        "too_large",
        "invalid_utf8",
        "invalid_json",
        "lone_surrogate",
        "number_out_of_range",
        "too_deep",
        "duplicate_key",
        "batch",
        "not_an_object",
        "bad_version",
        "bad_id",
        "bad_method",
        "bad_params",
        "bad_meta",
        "not_a_message",
    ]
    """A static word for the log; it is the message as well."""

    jsonrpc_code: Literal[-32700, -32600]
    """Parse error, or invalid request (JSON-RPC 2.0 section 5.1)."""

    id_json: bytes | None
    """The id to answer to as it is written, where it was seen and is good; never one of a parse error."""

@final
class Envelope:
    """What a relay has to know of one JSON-RPC message; only ``scan_envelope`` makes one.

    Ranges are ``(start, end)`` in the bytes that were scanned, ``None`` if the member is absent. What comes
    from ``params`` is there for requests and notifications only. A member of the wrong type that only some
    methods need (``name``, ``uri``, ``request_state``, ``protocol_version``) is ``None``; its range is given.
    """

    @property
    def kind(self) -> Literal["request", "notification", "response"]:
        """What the message is."""

    @property
    def method(self) -> str | None:
        """The method of a request or notification: at most 128 bytes."""

    @property
    def id(self) -> str | int | None:
        """The id of a request or response: a 64-bit integer or a string of at most 1,024 bytes as written.

        ``None`` for a notification, and for a response that reports an error about no request in particular.
        """

    @property
    def id_json(self) -> bytes | None:
        """The value of ``id`` as it is written."""

    @property
    def name(self) -> str | None:
        """``params.name``: the tool or prompt."""

    @property
    def uri(self) -> str | None:
        """``params.uri``: the resource."""

    @property
    def request_state(self) -> str | None:
        """``params.requestState``."""

    @property
    def protocol_version(self) -> str | None:
        """``params._meta["io.modelcontextprotocol/protocolVersion"]``."""

    @property
    def has_meta(self) -> bool:
        """Whether ``params._meta`` is an object; ``null`` counts as absent."""

    @property
    def has_client_capabilities(self) -> bool:
        """Whether ``params._meta["io.modelcontextprotocol/clientCapabilities"]`` is an object."""

    @property
    def has_progress_token(self) -> bool:
        """Whether ``params._meta.progressToken`` is a string or an integer."""

    @property
    def id_range(self) -> tuple[int, int] | None:
        """Where the value of ``id`` stands."""

    @property
    def params_range(self) -> tuple[int, int] | None:
        """Where the value of ``params`` stands."""

    @property
    def name_range(self) -> tuple[int, int] | None:
        """Where the value of ``params.name`` stands."""

    @property
    def uri_range(self) -> tuple[int, int] | None:
        """Where the value of ``params.uri`` stands."""

    @property
    def request_state_range(self) -> tuple[int, int] | None:
        """Where the value of ``params.requestState`` stands."""

    @property
    def meta_range(self) -> tuple[int, int] | None:
        """Where the value of ``params._meta`` stands."""

def scan_envelope(body: bytes, *, max_bytes: int, max_depth: int = 64) -> Envelope:
    """Scan one JSON-RPC 2.0 message without building its tree.

    Nothing is accepted that ``json.loads`` reads differently or two parsers could: no object at any level
    holds a key twice, strings have no lone surrogates, numbers are finite.

    Args:
        body: The message as it came: UTF-8 without a byte order mark.
        max_bytes: The longest message.
        max_depth: How deep arrays and objects may nest, the message itself counting as one; 1 to 256.

    Raises:
        EnvelopeError: The message is refused.
        ValueError: ``max_depth`` is out of range.
    """
