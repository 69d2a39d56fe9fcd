"""The issuers whose tokens are accepted, and their key sets: fetched, cached, refreshed, served stale.

Invariants:
    * A key set is fetched at most once per ``min_interval_s`` and issuer, however many unknown ``kid`` arrive.
    * While an issuer is down its last key set stays in force.
    * What a token claims never chooses an address to fetch from.
    * The gateway's own issuer is one like the others: its tokens are verified by the same code, with keys that are read
      from the database where others' are fetched. Before a token of it is believed the keys are read again, unless they
      were ``_OWN_TTL_S`` ago at most and nothing was said to have changed since; while the database is away, what was
      read last stands.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import structlog

from agentapi._core import (
    ClaimRules,
    IssuerPolicy,
    KeySetError,
    TokenError,
    TokenVerifier,
    UnknownKeyError,
    VerifiedToken,
)
from agentapi.errors import AgentAPIError, StartupError, UnauthenticatedError
from agentapi.identity.api_keys.models import KEY_ISSUER
from agentapi.identity.presets import PRESETS, effective_claims
from agentapi.principal import Bearer
from agentapi.settings import IssuerSettings
from agentapi.storage.notifier import DEAF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentapi.settings import Settings
    from agentapi.storage.notifier import ChangeFeed

__all__ = ["IssuerDirectory", "OwnIssuer"]

_log = structlog.get_logger(__name__)


_OWN_TTL_S: Final = 5.0
_OWN_MIN_INTERVAL_S: Final = 1.0
"""A read of the own keys is one query, which a stranger's token with an unknown key may cause once in this time."""


@dataclass(frozen=True, slots=True)
class OwnIssuer:
    """The gateway as an issuer of tokens for itself."""

    issuer: str
    key_set: Callable[[], Awaitable[bytes]]
    """Reads the public keys as they are now."""
    feed: ChangeFeed = DEAF
    """Tells when they change."""


@dataclass(slots=True)
class _KeySource:
    issuer: str
    read: Callable[[], Awaitable[bytes]]
    ttl_s: float
    min_interval_s: float
    rediscover: Callable[[], None] = lambda: None
    """Told that what was read is of no use, or could not be."""
    attempted: float | None = None
    fetched: float | None = None
    refresh: asyncio.Task[bool] | None = None
    before_use: bool = False
    """Whether an old key set is read again before a token is believed, and not while it is."""
    changes: int = 0
    """Grows with every change that is told of."""

    def is_old(self, now: float) -> bool:
        """Return whether the key set is to be read again."""
        return self.fetched is not None and now - self.fetched >= self.ttl_s

    def outdate(self) -> None:
        """Have the key set read again before its next use, for it has changed; what is being read now is old, too."""
        self.changes += 1
        self.attempted = None
        if self.fetched is not None:
            self.fetched = -math.inf


class IssuerDirectory:
    """Verifies bearer tokens against the configured issuers.

    Args:
        issuers: The accepted issuers.
        fetch: Fetches a document, bounded in size and time and guarded against private addresses.
        leeway_s: Clock skew allowed to issuers.
        cache_entries: Bound on remembered tokens.
        ttl_s: Age after which a key set is fetched again in the background.
        min_interval_s: Least time between two fetches of one key set.
        clock: Monotonic seconds.
        own: The gateway's own issuer, which is no authorization server that clients could be sent to.

    Raises:
        StartupError: An issuer is configured twice, or its inline keys or secret are unusable.
    """

    def __init__(
        self,
        issuers: Sequence[IssuerSettings],
        *,
        fetch: Callable[[str], Awaitable[bytes]],
        leeway_s: int,
        cache_entries: int,
        ttl_s: float,
        min_interval_s: float,
        clock: Callable[[], float],
        own: OwnIssuer | None = None,
    ) -> None:
        self._clock = clock
        self._own = None if own is None else own.issuer
        self._sources: dict[str, _KeySource] = {}
        self._required_scopes = {settings.issuer: settings.required_scopes for settings in issuers}
        self._operation_scopes = frozenset(settings.issuer for settings in issuers if settings.operation_scopes)
        self._claims = {settings.issuer: effective_claims(settings) for settings in issuers}
        self.issuers = tuple(settings.issuer for settings in issuers)
        if len(self._required_scopes) != len(issuers):
            raise StartupError("AGENTAPI_ISSUERS names one issuer twice; give each issuer once.")
        if KEY_ISSUER in self._required_scopes:
            raise StartupError(f"AGENTAPI_ISSUERS names {KEY_ISSUER}, which stands for API keys.")
        if own is not None and own.issuer in self._required_scopes:
            raise StartupError(f"AGENTAPI_ISSUERS names {own.issuer}, which is the gateway itself.")
        # A key has scopes, and is asked for them like a token whose issuer gives them by operation.
        for issuer in (KEY_ISSUER, *(() if own is None else (own.issuer,))):
            self._required_scopes[issuer] = ()
            self._operation_scopes |= {issuer}
        accepted = list(issuers)
        if own is not None:
            accepted.append(IssuerSettings(issuer=own.issuer))
            source = _KeySource(own.issuer, own.key_set, _OWN_TTL_S, _OWN_MIN_INTERVAL_S, before_use=True)
            self._sources[own.issuer] = source
            own.feed.listen(("signing_keys",), lambda _: source.outdate(), source.outdate)
        try:
            self._verifier = TokenVerifier(
                [_policy(settings) for settings in accepted], leeway_s=leeway_s, cache_entries=cache_entries
            )
            for settings in issuers:
                if settings.jwks is not None:
                    self._verifier.replace_keys(settings.issuer, settings.jwks.encode())
                elif settings.shared_secret is None:
                    published = _PublishedKeys(settings, fetch)
                    source = _KeySource(settings.issuer, published.read, ttl_s, min_interval_s, published.rediscover)
                    self._sources[settings.issuer] = source
        except ValueError as error:
            raise StartupError(f"AGENTAPI_ISSUERS: {error}") from error

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        issuers: Sequence[IssuerSettings],
        *,
        fetch: Callable[[str], Awaitable[bytes]],
        own: OwnIssuer,
    ) -> Self:
        """Build from ``jwt_*`` and ``key_set_*``.

        Raises:
            StartupError: As for the class.
        """
        return cls(
            issuers,
            fetch=fetch,
            leeway_s=settings.jwt_leeway_s,
            cache_entries=settings.jwt_cache_entries,
            ttl_s=settings.key_set_ttl_s,
            min_interval_s=settings.key_set_min_interval_s,
            clock=time.monotonic,
            own=own,
        )

    def required_scopes(self, issuer: str) -> tuple[str, ...]:
        """Return the scopes that every token of ``issuer`` must carry."""
        return self._required_scopes[issuer]

    def asks_operation_scopes(self, issuer: str) -> bool:
        """Return whether the tokens of ``issuer`` must carry the scope of each operation as well."""
        return issuer in self._operation_scopes

    def may_name(self, issuer: str, organization: str) -> bool:
        """Return whether a token of ``issuer`` can be one for that organisation, by the rules about its claims."""
        claims = self._claims[issuer]
        if claims.get("organization_pointer") is not None:
            # Whatever the claim says, unless it is listed as the name of another one.
            return True
        return bool(claims.get("organization") == organization)

    async def verify(self, token: str, audience: str) -> VerifiedToken:
        """Return the verified token; the same object for the same token while it lives.

        Raises:
            UnauthenticatedError: It is not acceptable here; the reason is for the log.
        """
        try:
            verified = self._verifier.verify(token, audience)
        except UnknownKeyError as error:
            verified = await self._verify_after_refresh(token, audience, error)
        except TokenError as error:
            raise self._refused(token, error) from None
        source = self._sources.get(verified.issuer)
        if source is None or not source.is_old(self._clock()):
            return verified
        if not source.before_use:
            self._start_refresh(source)
            return verified
        await self._refresh(source)
        if source.is_old(self._clock()):
            # It changed while it was read; or the database is away, and it is not asked again so soon.
            await self._refresh(source)
        try:
            return self._verifier.verify(token, audience)
        except TokenError as error:
            raise self._refused(token, error) from None

    def revoke(self, issuer: str, token_id: str, expires_at: int) -> None:
        """Refuse a token in this process from now on, by its ``jti``.

        Raises:
            RevocationError: The issuer is not accepted here, or too many revocations stand.
        """
        self._verifier.revoke_token(issuer, token_id, expires_at)

    async def load(self) -> None:
        """Fetch every key set once; one that cannot be had now is fetched when a token needs it."""
        await asyncio.gather(*(self._refresh(source) for source in self._sources.values()))

    async def close(self) -> None:
        """Stop the fetches under way."""
        tasks = [source.refresh for source in self._sources.values() if source.refresh is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _verify_after_refresh(self, token: str, audience: str, error: UnknownKeyError) -> VerifiedToken:
        source = self._sources.get(error.issuer)
        if source is None or not await self._refresh(source):
            raise UnauthenticatedError(error.reason, presented=True) from None
        try:
            return self._verifier.verify(token, audience)
        except TokenError as again:
            raise self._refused(token, again) from None

    def _refused(self, token: str, error: TokenError) -> UnauthenticatedError:
        # Only a token whose signature and times are good is found to be revoked, so that what it says is known by then.
        bearer = _bearer(token) if error.reason == "revoked" else None
        if bearer is not None and bearer.issuer != self._own:
            bearer = None
        return UnauthenticatedError(error.reason, presented=True, bearer=bearer)

    async def _refresh(self, source: _KeySource) -> bool:
        """Fetch the key set unless that was tried too recently; return whether there is a newer one."""
        task = self._start_refresh(source)
        return False if task is None else await asyncio.shield(task)

    def _start_refresh(self, source: _KeySource) -> asyncio.Task[bool] | None:
        if source.refresh is not None and not source.refresh.done():
            return source.refresh
        now = self._clock()
        if source.attempted is not None and now - source.attempted < source.min_interval_s:
            return None
        source.attempted = now
        source.refresh = asyncio.ensure_future(self._fetch_keys(source))
        return source.refresh

    async def _fetch_keys(self, source: _KeySource) -> bool:
        issuer, changes = source.issuer, source.changes
        try:
            count = self._verifier.replace_keys(issuer, await source.read())
        except (AgentAPIError, KeySetError, ValueError, RecursionError) as error:
            source.rediscover()
            _log.warning("key_set_refresh_failed", issuer=issuer, reason=str(error), stale=source.fetched is not None)
            return False
        first = source.fetched is None
        source.fetched = self._clock() if changes == source.changes else -math.inf
        log = _log.info if first or source.ttl_s > _OWN_TTL_S else _log.debug
        log("key_set_refreshed", issuer=issuer, keys=count)
        return True


class _PublishedKeys:
    """Where an issuer publishes its keys."""

    def __init__(self, settings: IssuerSettings, fetch: Callable[[str], Awaitable[bytes]]) -> None:
        self._issuer = settings.issuer
        self._fetch = fetch
        self._given = None if settings.jwks_url is None else str(settings.jwks_url)
        self._jwks_url = self._given

    async def read(self) -> bytes:
        """Fetch the key set.

        Raises:
            AgentAPIError: It cannot be had.
            ValueError: What says where it is makes no sense.
        """
        if self._jwks_url is None:
            self._jwks_url = await self._discover()
        return await self._fetch(self._jwks_url)

    def rediscover(self) -> None:
        """Ask the issuer anew where its keys are, unless the settings say so: it may have moved them."""
        self._jwks_url = self._given

    async def _discover(self) -> str:
        """Return ``jwks_uri`` of the issuer's discovery document (OpenID Connect Discovery 1.0, section 4)."""
        document = json.loads(await self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ValueError("the discovery document names another issuer")
        jwks_uri = document.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise ValueError("the discovery document has no jwks_uri")  # noqa: TRY004 - the document is wrong, not a type
        return jwks_uri


def _bearer(token: str) -> Bearer | None:
    """Return whose a verified token is, if it is one of a session."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    found = tuple(claims.get(name) for name in ("iss", "organization", "sid"))
    return Bearer(*found) if all(isinstance(each, str) for each in found) else None


def _policy(settings: IssuerSettings) -> IssuerPolicy:
    secret = settings.shared_secret
    return IssuerPolicy(
        issuer=settings.issuer,
        audiences=settings.audiences or PRESETS[settings.preset].audiences,
        shared_secret=secret.get_secret_value().encode() if secret is not None else None,
        claims=ClaimRules(**effective_claims(settings)),
    )
