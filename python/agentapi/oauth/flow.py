"""Init and callback: from a user's wish to a sealed connection.

Invariants:

* PKCE with S256 always; the verifier leaves the vault for the token endpoint alone.
* The state holds 256 random bits, sealed with organisation, user and expiry. A callback counts in the browser that
  holds the cookie of ``init``, for ten minutes, once: whoever deletes the flow's row has it.
* The code goes to the token endpoint of the server that the flow began with, and only if the ``iss`` of the answer does
  not contradict that (RFC 9207).
* A flow that fails is gone, and what it was given meanwhile is revoked.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

import structlog
from pydantic import SecretStr

from agentapi._core import SealError
from agentapi.errors import AgentAPIError, InvalidRequestError, NotFoundError
from agentapi.oauth import store
from agentapi.oauth.changes import Changes
from agentapi.oauth.discovery import union
from agentapi.oauth.errors import AuthorizationServerError, FlowRefusedError
from agentapi.oauth.journal import Event
from agentapi.oauth.models import Connection, Flow, FlowId, Grant, Status
from agentapi.oauth.vault import connection_id
from agentapi.principal import OrgId, UserId
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.models import Auth

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from datetime import datetime

    from agentapi._core import Keyring
    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.journal import Journal
    from agentapi.oauth.models import Tokens
    from agentapi.oauth.protocol import AuthorizationClient
    from agentapi.oauth.revoke import Revoker
    from agentapi.oauth.vault import Vault
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection as Transaction
    from agentapi.storage.database import Database
    from agentapi.upstreams.models import Upstream

__all__ = ["TTL_S", "Answer", "Begun", "Finished", "Flows"]

TTL_S: Final = 600
_STATE_AAD: Final = b"oauth_flows.state"
_STATE_BYTES: Final = 32
_ID_BYTES: Final = 16
_MAX_OPEN_FLOWS: Final = 20
_BROWSER: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_CODE: Final = 4096

_UNKNOWN: Final = (
    "This link is not one that this browser is waiting for: it was used already, is too old, or began elsewhere."
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Where the browser goes now, and the cookie that has to come back with it."""

    url: str
    browser: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an authorization server sent the browser back with (RFC 6749, section 4.1.2; RFC 9207)."""

    state: str | None
    code: str | None = None
    error: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A connection that has just been made."""

    connection: Connection
    upstream_name: str
    return_to: str | None


class Flows:
    """Begins and ends authorizations.

    Args:
        database: Where flows and connections are.
        keyring: Seals states.
        vault: Seals the rest.
        clients: Knows servers and clients.
        protocol: Redeems codes.
        revoker: Gives back what came too late.
        return_urls: Where a browser may be sent in the end; compared exactly.
        plan: Called in the transaction that stores a connection.
        journal: Is told of what happens.
        clock: The time, with its zone.
        changes: Is told of connections that were made.
    """

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        vault: Vault,
        clients: ClientRegistry,
        protocol: AuthorizationClient,
        revoker: Revoker,
        return_urls: Collection[str],
        plan: Callable[[Transaction, Connection], Awaitable[None]],
        journal: Journal,
        clock: Callable[[], datetime],
        changes: Changes | None = None,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._vault = vault
        self._clients = clients
        self._protocol = protocol
        self._revoker = revoker
        self._return_urls = frozenset(return_urls)
        self._plan = plan
        self._journal = journal
        self._clock = clock
        self._changes = changes or Changes()

    async def init(
        self,
        principal: Principal,
        upstream: Upstream,
        *,
        browser: str | None = None,
        return_to: str | None = None,
        more_scopes: tuple[str, ...] = (),
    ) -> Begun:
        """Begin a connection of ``principal`` to ``upstream``.

        Args:
            principal: Whose connection it will be.
            upstream: What it is for.
            browser: The cookie that the browser has of an earlier flow, so that two tabs do not disturb each other.
            return_to: Where the browser goes in the end.
            more_scopes: For a step-up: what is needed besides the scopes that the connection has.

        Raises:
            InvalidRequestError: ``return_to`` is not on the list, or the upstream takes no OAuth connections.
            AuthorizationServerError: The authorization server cannot be found or must not be trusted.
            ClientMissingError: An administrator has to register a client first.
        """
        if return_to is not None and return_to not in self._return_urls:
            raise InvalidRequestError("The address to return to is not one that AGENTAPI_OAUTH_RETURN_URLS lists.")
        target = await self._clients.target(principal, upstream)
        endpoint = upstream.endpoint
        if endpoint is None:
            raise AssertionError(upstream.id)
        now = self._clock()
        expires_at = now + timedelta(seconds=TTL_S)
        random = secrets.token_bytes(_STATE_BYTES)
        cookie = browser if browser is not None and _BROWSER.fullmatch(browser) else secrets.token_urlsafe(_STATE_BYTES)
        async with self._database.tenant_transaction(principal) as connection:
            held = await store.find_connection(connection, principal.user_id, upstream.id)
            scopes = union(target.scopes, more_scopes)
            if held is not None and more_scopes:
                scopes = union(held.scopes, scopes)
            flow = Flow(
                id=FlowId(uuid4()),
                org_id=principal.org_id,
                user_id=principal.user_id,
                upstream_id=upstream.id,
                endpoint=endpoint,
                provider=target.provider,
                server=target.server,
                client_id=target.client.client_id,
                verifier=SecretStr(secrets.token_urlsafe(48)),
                resource=target.resource if target.server.takes_resource else None,
                scopes=scopes,
                return_to=return_to,
                expires_at=expires_at,
            )
            row = store.StoredFlow(
                id=flow.id,
                org_id=flow.org_id,
                user_id=flow.user_id,
                upstream_id=flow.upstream_id,
                state_hash=_digest(random),
                browser_hash=_digest(cookie.encode()),
                sealed=self._vault.seal_flow(flow),
                expires_at=expires_at,
            )
            await store.sweep_flows(connection, principal.user_id, now=now, keep=_MAX_OPEN_FLOWS - 1)
            await store.insert_flow(connection, row)
            await self._journal.record(connection, Event.INITIATED, flow)
        plaintext = random + principal.org_id.bytes + principal.user_id.bytes
        url = self._protocol.authorization_url(
            flow.server,
            target.client,
            redirect_uri=self._clients.redirect_uri,
            state=self._keyring.seal_text_until(plaintext, _STATE_AAD, int(expires_at.timestamp())),
            verifier=flow.verifier,
            scopes=scopes,
            resource=flow.resource,
        )
        _log.info("oauth_initiated", provider=flow.provider, upstream_id=str(upstream.id))
        return Begun(url=url, browser=cookie, expires_at=expires_at)

    async def finish(self, answer: Answer, *, browser: str | None) -> Finished:
        """End the flow that ``answer`` belongs to.

        Raises:
            FlowRefusedError: There is none for this browser, or the server's answer must not be believed.
            AuthorizationServerError: The user or the server refused, or the code could not be redeemed.
            NotFoundError: The upstream is gone, or is somewhere else by now.
        """
        flow = await self._take(answer, browser)
        try:
            return await self._complete(flow, answer)
        except AgentAPIError as error:
            self._journal.note(Event.DENIED, flow, reason=error.code)
            _log.info(
                "oauth_denied",
                provider=flow.provider,
                upstream_id=str(flow.upstream_id),
                code=error.code,
                **error.log_context,
            )
            raise

    async def _take(self, answer: Answer, browser: str | None) -> Flow:
        now = self._clock()
        if answer.state is None or browser is None or not _BROWSER.fullmatch(browser):
            raise _refused("no_state" if answer.state is None else "no_browser")
        try:
            opened = self._keyring.open_text_unexpired(answer.state, _STATE_AAD, int(now.timestamp()))
        except SealError:
            raise _refused("state_does_not_open") from None
        random, rest = opened[:_STATE_BYTES], opened[_STATE_BYTES:]
        org_id, user_id = OrgId(UUID(bytes=rest[:_ID_BYTES])), UserId(UUID(bytes=rest[_ID_BYTES:]))
        async with self._database.user_transaction(org_id, user_id) as connection:
            row = await store.take_flow(
                connection,
                user_id,
                state_hash=_digest(random),
                browser_hash=_digest(browser.encode()),
                now=now,
            )
        if row is None:
            self._journal.replayed(org_id, user_id)
            raise _refused("state_spent_or_of_another_browser")
        return self._vault.open_flow(
            row.sealed,
            flow_id=row.id,
            org_id=org_id,
            user_id=user_id,
            upstream_id=row.upstream_id,
            expires_at=row.expires_at,
        )

    async def _complete(self, flow: Flow, answer: Answer) -> Finished:
        _check_issuer(flow, answer)
        if answer.error is not None:
            denied = answer.error == "access_denied"
            raise AuthorizationServerError(
                "The connection was not allowed at the provider." if denied else "The provider answered with an error.",
                denied=denied,
            )
        if not answer.code or len(answer.code) > _MAX_CODE:
            raise FlowRefusedError("The provider's answer has no code.", reason="no_code")
        client = await self._clients.of_grant(flow.org_id, flow.user_id, flow.server, flow.client_id)
        tokens = await self._protocol.exchange(
            flow.server,
            client,
            code=answer.code,
            verifier=flow.verifier,
            redirect_uri=self._clients.redirect_uri,
            resource=flow.resource,
        )
        made = self._connection(flow, tokens)
        try:
            async with self._database.user_transaction(flow.org_id, flow.user_id) as connection:
                upstream = await upstream_store.get_upstream(connection, flow.upstream_id)
                if upstream.auth is not Auth.OAUTH or upstream.endpoint != flow.endpoint:
                    raise NotFoundError("The upstream was changed meanwhile; begin again.")
                kept = await store.put_connection(connection, made)
                await self._plan(connection, kept)
                await self._journal.record(connection, Event.CONNECTED, kept)
        except AgentAPIError:
            await self._revoker.give_back(made)
            raise
        self._changes.tell(flow.org_id, flow.user_id, flow.upstream_id)
        _log.info("oauth_connected", provider=flow.provider, upstream_id=str(flow.upstream_id))
        return Finished(connection=kept, upstream_name=upstream.name, return_to=flow.return_to)

    def _connection(self, flow: Flow, tokens: Tokens) -> Connection:
        now = self._clock()
        id_ = connection_id(flow.org_id, flow.user_id, flow.upstream_id)
        grant = Grant(
            access_token=tokens.access_token,
            refresh_token=tokens.refresh_token,
            client_id=flow.client_id,
            server=flow.server,
            endpoint=flow.endpoint,
            resource=flow.resource,
        )
        lifetime = tokens.expires_in_s
        return Connection(
            id=id_,
            org_id=flow.org_id,
            user_id=flow.user_id,
            upstream_id=flow.upstream_id,
            provider=flow.provider,
            sealed=self._vault.seal_grant(
                grant, id_=id_, org_id=flow.org_id, user_id=flow.user_id, provider=flow.provider
            ),
            scopes=flow.scopes if tokens.scopes is None else tokens.scopes,
            status=Status.ACTIVE,
            expires_at=None if lifetime is None else now + timedelta(seconds=lifetime),
            created_at=now,
            updated_at=now,
        )


def _check_issuer(flow: Flow, answer: Answer) -> None:
    """Refuse the answer of another server (RFC 9207, section 2.4); an error is as little believed as a code."""
    if answer.issuer is None and not flow.server.announces_issuer:
        return
    if answer.issuer != flow.server.issuer:
        raise FlowRefusedError(
            "The answer does not come from the authorization server that was asked.",
            reason="issuer_missing" if answer.issuer is None else "issuer_differs",
        )


def _refused(reason: str) -> FlowRefusedError:
    _log.info("oauth_denied", reason=reason)
    return FlowRefusedError(_UNKNOWN, reason=reason)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
