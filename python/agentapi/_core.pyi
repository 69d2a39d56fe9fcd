"""Type stub of the Rust extension; stubtest keeps it equal to the binary.

All classes are frozen and safe to share between threads. Times of tokens are Unix seconds; times of token buckets
and circuit breakers are nanoseconds of any one clock, by default a monotonic one.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, final

__all__ = [
    "Circuit",
    "CircuitBreakers",
    "CircuitRules",
    "CircuitSnapshot",
    "ClaimRules",
    "Decision",
    "Decisions",
    "Envelope",
    "EnvelopeError",
    "IssuerPolicy",
    "KeySetError",
    "Keyring",
    "KeyringError",
    "Limit",
    "Refusal",
    "RevocationError",
    "SealError",
    "Ticket",
    "TokenBuckets",
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
    def session_id(self) -> str | None:
        """The ``sid`` claim, where it is text of the form that ``subject`` has."""

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

        Keys that stay keep the tokens they have verified; the others' tokens never pass again. Their memory
        is reclaimed when they are shown or as new ones come.

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
        """How many tokens are remembered, with the dead ones that are not reclaimed yet."""

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

    jsonrpc_code: Literal[-32700, -32600, -32602]
    """Parse error, invalid request, or invalid params (JSON-RPC 2.0 section 5.1)."""

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
    def has_progress_token(self) -> bool:
        """Whether ``params._meta.progressToken`` is a string or an integer."""

    @property
    def has_plain_params(self) -> bool:
        """Whether ``params`` is what the first request for something holds.

        That is: ``arguments``, if they are there, are an object, ``requestState``, if it is there, is a string or
        ``null``, and there are no ``inputResponses``.
        """

    @property
    def result_type(self) -> str | None:
        """``result.resultType`` of a response, if ``result`` is an object and that a string."""

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

@final
class Limit:
    """How fast and up to how many tokens a bucket fills. Equal limits are equal and hash alike."""

    def __new__(cls, *, count: int, period_ns: int, burst: int) -> Limit:
        """Give ``count`` tokens in each ``period_ns``, and hold at most ``burst``.

        The time of one token is rounded up to a whole microsecond.

        Raises:
            ValueError: A number is zero, more than one token comes each microsecond, or an empty bucket needs
                more than 366 days to become full.
        """

    @property
    def interval_ns(self) -> int:
        """The time in which one token comes back."""

    @property
    def burst(self) -> int:
        """The most tokens a bucket holds."""

    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Decision:
    """What one limit says about a request."""

    @property
    def allowed(self) -> bool:
        """Whether the tokens were there."""

    @property
    def never_fits(self) -> bool:
        """Whether the cost is more than the burst, so that no waiting helps."""

    @property
    def remaining(self) -> int:
        """Tokens that are left."""

    @property
    def retry_after_ns(self) -> int:
        """How long to wait before the same request can be allowed; 0 unless refused."""

    @property
    def retry_after_s(self) -> int:
        """The same in whole seconds, rounded up."""

    @property
    def reset_ns(self) -> int:
        """How long until the bucket is full."""

    @property
    def reset_s(self) -> int:
        """The same in whole seconds, rounded up."""

    __hash__: None  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...

@final
class Decisions:
    """What several limits say about one request."""

    @property
    def allowed(self) -> bool:
        """Whether every limit allows the request; otherwise nothing was taken anywhere."""

    @property
    def never_fits(self) -> bool:
        """Whether a limit can never allow it."""

    @property
    def retry_after_ns(self) -> int:
        """How long to wait until every limit can allow it; 0 unless refused."""

    @property
    def retry_after_s(self) -> int:
        """The same in whole seconds, rounded up."""

    @property
    def each(self) -> tuple[Decision, ...]:
        """What each limit says, in order.

        When the request is refused, a limit that allows it says so and shows what it had before.
        """

@final
class TokenBuckets:
    """The token buckets of many keys (GCRA).

    Limits come with each call, so that a plan may change at any time; what was taken stays taken. Without ``now`` the
    time is read, and if every bucket of the call needs a second or more to become full, from a clock that is up to
    one tick of the system (1 to 10 ms) behind: a token may come back so much later.
    """

    def __new__(cls, *, capacity: int = 100_000) -> TokenBuckets:
        """Hold at most ``capacity`` buckets that are not full; full ones are forgotten first."""

    def acquire(self, key: str, limit: Limit, cost: int = 1, now: int | None = None) -> Decision:
        """Take ``cost`` tokens from the bucket of ``key`` if they are there; a cost of 0 only looks."""

    def acquire_many(self, requests: Sequence[tuple[str, Limit, int]], now: int | None = None) -> Decisions:
        """Take tokens from several buckets if all of them have what is asked, otherwise from none.

        Args:
            requests: Key, limit and cost of each; those with one key share its bucket.
            now: Nanoseconds.

        Raises:
            ValueError: There are more than 32.
        """

    @property
    def evicted(self) -> int:
        """How many buckets were forgotten before they were full, for want of room."""

    def __len__(self) -> int: ...

@final
class CircuitRules:
    """When circuits open and close; ``CircuitBreakers`` checks them."""

    def __new__(
        cls,
        *,
        consecutive_failures: int = 5,
        failure_rate_percent: int = 50,
        window_ns: int = 60_000_000_000,
        min_calls: int = 20,
        open_ns: int = 30_000_000_000,
        jitter_percent: int = 10,
        probes: int = 1,
        probe_lease_ns: int = 30_000_000_000,
        successes_to_close: int = 2,
    ) -> CircuitRules:
        """Collect the rules.

        Args:
            consecutive_failures: Failures in a row that open a circuit.
            failure_rate_percent: Part of the calls in the window that opens it by failing; 101 never does.
            window_ns: Length of the window; it moves in tenths.
            min_calls: Calls in the window that are enough to judge by.
            open_ns: How long a circuit stays open.
            jitter_percent: How much of that may come on top.
            probes: Probes at a time, 1 to 16.
            probe_lease_ns: How long a probe holds its place.
            successes_to_close: Successes of probes that close a circuit.
        """

@final
class Ticket:
    """The right to make one call and to say once how it ended.

    It counts only if the circuit has not changed its state since. Each method says what that did to the circuit.
    The ticket of a probe counts once; all calls that a closed circuit lets through between two changes share one.
    """

    @property
    def allowed(self) -> Literal[True]:
        """Always true, which tells it from a refusal."""

    @property
    def is_probe(self) -> bool:
        """Whether the call is a probe of a half-open circuit."""

    def success(self) -> Literal["opened", "closed"] | None:
        """Say that the other side did its part."""

    def failure(self) -> Literal["opened", "closed"] | None:
        """Say that the other side failed."""

    def neutral(self) -> Literal["opened", "closed"] | None:
        """Say that the call tells nothing about the other side: the caller was wrong, or gave up."""

    def record_at(
        self, outcome: Literal["success", "failure", "neutral"], now: int
    ) -> Literal["opened", "closed"] | None:
        """Say how the call ended, by the caller's own clock.

        Raises:
            ValueError: There is no such outcome.
        """

@final
class Refusal:
    """The circuit lets no call through now. It is false, so that ``if ticket:`` is enough."""

    @property
    def allowed(self) -> Literal[False]:
        """Always false, which tells it from a ticket."""

    def __bool__(self) -> Literal[False]: ...
    @property
    def state(self) -> Literal["open", "half_open", "forced_open"]:
        """Why: the state of the circuit."""

    @property
    def retry_after_ns(self) -> int:
        """When to ask again; a forced circuit cannot tell and says its ordinary open time."""

    @property
    def retry_after_s(self) -> int:
        """The same in whole seconds, rounded up."""

@final
class CircuitSnapshot:
    """One circuit, to be shown."""

    @property
    def key(self) -> str:
        """Names the circuit."""

    @property
    def state(self) -> Literal["closed", "open", "half_open", "forced_open"]:
        """Its state; an open circuit stays open until a call is allowed as its probe."""

    @property
    def consecutive_failures(self) -> int:
        """Failures in a row."""

    @property
    def calls(self) -> int:
        """Calls recorded in the window."""

    @property
    def failures(self) -> int:
        """How many of them failed."""

    @property
    def probes(self) -> int:
        """Probes that hold a place."""

    @property
    def retry_after_ns(self) -> int:
        """The rest of the open time."""

    @property
    def openings(self) -> int:
        """How often it opened since it is known."""

@final
class Circuit:
    """The circuit of one key, to be kept beside what it guards; ``CircuitBreakers`` gives it.

    For as long as it is kept it is the circuit of its key. While the circuit is closed ``allow`` takes no lock,
    reads no clock and makes no object.
    """

    @property
    def key(self) -> str:
        """Names the circuit."""

    def allow(self) -> Ticket | Refusal:
        """Ask to make a call. The outcome of one that is allowed has to be told to its ticket."""

    def allow_at(self, now: int) -> Ticket | Refusal:
        """Ask to make a call, by the caller's own clock."""

@final
class CircuitBreakers:
    """The circuits of many keys under the same rules: ``if ticket := breakers[key].allow(): ...``.

    Time is read from a clock that is up to 10 ms behind. Where ``now`` is given it is nanoseconds of one clock
    for all calls.
    """

    def __new__(
        cls, rules: CircuitRules | None = None, *, capacity: int = 100_000, seed: int | None = None
    ) -> CircuitBreakers:
        """Build them; by default with the default rules and a random seed.

        Args:
            rules: When circuits open and close.
            capacity: Most circuits that are known, beside those that are kept; healthy ones are forgotten first.
            seed: 64 bits that decide the jitter; for tests.

        Raises:
            ValueError: A rule is out of range.
        """

    def __getitem__(self, key: str, /) -> Circuit:
        """Return the circuit of ``key``; it is made, closed, if there is none."""

    def circuit(self, key: str, now: int | None = None) -> Circuit:
        """Return the circuit of ``key`` as ``[]`` does, made at ``now`` if there is none."""

    def force_open(self, key: str, now: int | None = None) -> None:
        """Refuse all calls of ``key`` until ``reset``."""

    def reset(self, key: str) -> None:
        """Close the circuit of ``key`` without a past."""

    def snapshot(self, key: str, now: int | None = None) -> CircuitSnapshot:
        """Return the circuit of ``key``; one that is not known is closed."""

    def tripped(self, now: int | None = None) -> list[CircuitSnapshot]:
        """Return the circuits that are not closed, in no order."""

    def counts(self) -> dict[str, int]:
        """Return how many known circuits are in each state."""

    def __len__(self) -> int: ...
