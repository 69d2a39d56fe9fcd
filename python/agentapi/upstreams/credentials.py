"""What upstreams are given instead of asking for it: the credential of whoever calls.

Each kind of ``Auth`` has one implementation of ``Credentials``; the composition root joins them. Whoever sends a
request asks for the credential first and keys all that it keeps (sessions with upstreams, prepared heads) by the
credential's user and version, so that what one user's credential opened never carries a request of another, nor of the
same user once the credential has changed. TCP connections carry no credential of their own and are shared by origin:
each request on one brings its own.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from agentapi._core import SealError
from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError
from agentapi.upstreams.failures import CredentialRefusedError
from agentapi.upstreams.models import Auth
from agentapi.upstreams.reasons import reason_of
from agentapi.upstreams.secrets import credential_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentapi._core import Keyring
    from agentapi.principal import UpstreamId, UserId
    from agentapi.upstreams.challenges import Challenge
    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

__all__ = [
    "NO_CREDENTIAL",
    "Credential",
    "Credentials",
    "CredentialsByAuth",
    "SharedSecrets",
    "with_credential",
    "with_query",
]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What one caller's request carries; every value is a secret."""

    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    query: Mapping[str, SecretStr] = field(default_factory=dict)
    environment: Mapping[str, SecretStr] = field(default_factory=dict)
    """Variables of a stdio server's process."""
    version: str
    """Changes whenever a value does."""
    user_id: UserId | None = None
    """Whose own it is; None for one that an organisation's users share."""


NO_CREDENTIAL: Final = Credential(version="none")


class Credentials(Protocol):
    """Gives the credential that authenticates a caller to an upstream."""

    async def credential(self, upstream: Upstream, caller: Caller) -> Credential:
        """Return the credential of one request; what it was a moment ago is the same object.

        Raises:
            UpstreamNeedsConnectionError: The caller has to connect, or to connect again.
            UpstreamError: There is one, and it cannot be had now.
        """

    async def rejected(
        self, upstream: Upstream, caller: Caller, credential: Credential, challenge: Challenge
    ) -> Credential:
        """Return another credential after the upstream refused ``credential``.

        Of one request it is asked at most twice: about the credential, and about the other one that it returned.

        Args:
            upstream: Which answered 401, or 403 ``insufficient_scope``.
            caller: Whose request it was.
            credential: The user's own credential that was refused.
            challenge: What the upstream said with the refusal.

        Raises:
            UpstreamNeedsConnectionError: Only the caller can help: connect again, or with more scopes.
            UpstreamError: Nobody can, or not now.
        """


class SharedSecrets:
    """The credentials of organisations: none, or the one secret that is stored with the upstream.

    Args:
        keyring: Opens the secrets.
        max_entries: Bound on opened ones; the least recently used goes first.
    """

    def __init__(self, keyring: Keyring, *, max_entries: int = 1024) -> None:
        self._keyring = keyring
        self._max_entries = max_entries
        self._opened: OrderedDict[UpstreamId, tuple[int, Credential]] = OrderedDict()

    async def credential(self, upstream: Upstream, caller: Caller) -> Credential:
        """Return the upstream's secret, whoever calls.

        Raises:
            UpstreamNeedsConnectionError: It is for each user to bring one.
            UpstreamError: The secret does not open.
        """
        del caller
        if upstream.auth is Auth.NONE:
            return NO_CREDENTIAL
        kept = self._opened.get(upstream.id)
        if kept is None or kept[0] != upstream.version:
            kept = self._opened[upstream.id] = (upstream.version, self._open(upstream))
            if len(self._opened) > self._max_entries:
                self._opened.popitem(last=False)
        self._opened.move_to_end(upstream.id)
        return kept[1]

    async def rejected(
        self, upstream: Upstream, caller: Caller, credential: Credential, challenge: Challenge
    ) -> Credential:
        """Refuse: there is no other secret.

        Raises:
            UpstreamError: Always.
        """
        del caller, credential, challenge
        raise UpstreamError(f"Upstream '{upstream.name}' refuses the credential that is stored for it.")

    def _open(self, upstream: Upstream) -> Credential:
        if upstream.auth not in {Auth.BEARER, Auth.API_KEY}:
            raise UpstreamNeedsConnectionError(
                f"Upstream '{upstream.name}' needs a connection of yours, and you have none.", upstream_id=upstream.id
            )
        try:
            opened = credential_headers(self._keyring, upstream)
        except SealError as error:
            raise UpstreamError(f"Upstream '{upstream.name}' is unavailable: {reason_of(error)}.") from error
        headers = {name: SecretStr(value) for name, value in opened.items()}
        return Credential(headers=headers, version=f"shared:{upstream.version}")


class CredentialsByAuth:
    """The credentials of all upstreams, each by the kind that it takes.

    Args:
        shared: Those of organisations.
        own: Those of users.
    """

    def __init__(self, shared: Credentials, own: Mapping[Auth, Credentials]) -> None:
        self._shared = shared
        self._own = own

    async def credential(self, upstream: Upstream, caller: Caller) -> Credential:
        """Return the credential of one request; see ``Credentials``."""
        return await self._own.get(upstream.auth, self._shared).credential(upstream, caller)

    async def rejected(
        self, upstream: Upstream, caller: Caller, credential: Credential, challenge: Challenge
    ) -> Credential:
        """Return another credential; see ``Credentials``."""
        return await self._own.get(upstream.auth, self._shared).rejected(upstream, caller, credential, challenge)


def with_query(url: str, credential: Credential) -> str:
    """Return ``url`` with the parameters of ``credential`` behind its own."""
    if not credential.query:
        return url
    given = urlencode({name: value.get_secret_value() for name, value in credential.query.items()})
    parts = urlsplit(url)
    return parts._replace(query=f"{parts.query}&{given}" if parts.query else given).geturl()


async def with_credential(
    credentials: Credentials, upstream: Upstream, caller: Caller, use: Callable[[Credential], Awaitable[_T]]
) -> _T:
    """Return what ``use`` makes of the caller's credential; of another one, once, if the upstream refuses that.

    An upstream that refuses a credential has not acted on the request, so that any request may be sent again.

    Raises:
        UpstreamNeedsConnectionError: Only the caller can help.
        CredentialRefusedError: The upstream refuses what the organisation's users share.
        Exception: What ``use`` raises otherwise.
    """
    credential = await credentials.credential(upstream, caller)
    try:
        return await use(credential)
    except CredentialRefusedError as refusal:
        if credential.user_id is None:
            raise
        another = await credentials.rejected(upstream, caller, credential, refusal.challenge)
    try:
        return await use(another)
    except CredentialRefusedError as refusal:
        # There is no third try; this is asked for what it raises, and for what it makes of the next call.
        await credentials.rejected(upstream, caller, another, refusal.challenge)
        raise UpstreamNeedsConnectionError(
            f"Upstream '{upstream.name}' does not accept your connection, renewed as it is; connect again.",
            upstream_id=upstream.id,
            scopes=refusal.challenge.scopes,
        ) from refusal
