"""Who may ask a token endpoint now: one authorization server that is down or slow must not take the places of all.

Invariants:

* Organisation and issuer together are one key. Of one key at most ``_EACH`` ask at a time, of one organisation at most
  half of all, of all at most ``at_once``. Servers that hang hold up the connections of their own organisation at most,
  and one of them, where there are three places or more, only those which lead to it.
* A key whose server fails again and again is not asked for a while: its circuit is open. What is refused so has taken
  no place and no database connection.
* Nobody waits for longer than ``wait_s``, and whoever waits holds a place of its own key and organisation at most.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from agentapi._core import CircuitBreakers
from agentapi.oauth.errors import AuthorizationServerError, AuthorizationServerRestsError, GrantRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentapi._core import Circuit, Ticket
    from agentapi.oauth.models import Tokens
    from agentapi.principal import OrgId

__all__ = ["Place", "TokenPlaces"]

_EACH: Final = 2
_MAX_CIRCUITS: Final = 10_000
_UNWELL: Final = frozenset({"server_error", "temporarily_unavailable"})
"""Errors that speak of the server; any other, such as ``invalid_grant``, is the answer of one that is well."""
_CROWDED_S: Final = 5


class Place:
    """The right to ask one authorization server once, and to learn from how that ends."""

    def __init__(self, ticket: Ticket, now_ns: Callable[[], int]) -> None:
        self._ticket = ticket
        self._now_ns = now_ns

    async def ask(self, request: Awaitable[Tokens]) -> Tokens:
        """Await ``request`` and tell the circuit.

        Raises:
            AuthorizationServerError: As ``request`` does.
        """
        try:
            tokens = await request
        except GrantRefusedError as error:
            self._ticket.record_at("failure" if error.error in _UNWELL else "success", self._now_ns())
            raise
        except AuthorizationServerError:
            self._ticket.record_at("failure", self._now_ns())
            raise
        self._ticket.record_at("success", self._now_ns())
        return tokens


class TokenPlaces:
    """Gives out places.

    Args:
        at_once: How many ask at a time in this process.
        wait_s: How long to wait for a place.
        breakers: The circuits; by default with the rules of all others.
        now_ns: Their clock.
    """

    def __init__(
        self,
        *,
        at_once: int,
        wait_s: float,
        breakers: CircuitBreakers | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._of_one = (at_once + 1) // 2
        self._each = max(1, min(_EACH, self._of_one - 1))
        self._organizations: WeakValueDictionary[OrgId, asyncio.Semaphore] = WeakValueDictionary()
        self._keys: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._wait_s = wait_s
        self._breakers = CircuitBreakers(capacity=_MAX_CIRCUITS) if breakers is None else breakers
        self._now_ns = now_ns

    @asynccontextmanager
    async def take(self, org_id: OrgId, issuer: str) -> AsyncIterator[Place]:
        """Keep a place until the context ends.

        Raises:
            AuthorizationServerRestsError: The server has failed too often of late, or too many wait.
        """
        key = f"{org_id} {issuer}"
        circuit = self._breakers.circuit(key, self._now_ns())
        ticket = self._allowed(circuit)
        try:
            async with AsyncExitStack() as places:
                if await self._waited(places, org_id, key) and not ticket.is_probe:
                    # Those before it may have found out meanwhile that the server is down.
                    ticket = self._allowed(circuit)
                yield Place(ticket, self._now_ns)
        finally:
            if ticket.is_probe:
                # A probe counts once: this lets another one be made where nothing was asked.
                ticket.record_at("neutral", self._now_ns())

    def _allowed(self, circuit: Circuit) -> Ticket:
        ticket = circuit.allow_at(self._now_ns())
        if not ticket.allowed:
            raise AuthorizationServerRestsError(
                "The authorization server has failed too often of late; it is asked again shortly.",
                retry_after_s=ticket.retry_after_s,
            )
        return ticket

    async def _waited(self, places: AsyncExitStack, org_id: OrgId, key: str) -> bool:
        """Take a place among those of the key, of the organisation and of all; return whether that took a while."""
        wanted = (
            self._keys.setdefault(key, asyncio.Semaphore(self._each)),
            self._organizations.setdefault(org_id, asyncio.Semaphore(self._of_one)),
            self._all,
        )
        at_once = not any(each.locked() for each in wanted)
        try:
            async with asyncio.timeout(self._wait_s):
                for each in wanted:
                    await places.enter_async_context(each)
        except TimeoutError:
            raise AuthorizationServerRestsError(
                "Too many connections are being refreshed; it is tried again shortly.", retry_after_s=_CROWDED_S
            ) from None
        return not at_once
