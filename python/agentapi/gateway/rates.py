"""Counts requests: each once, by what is known of it when it is served or refused.

Whoever is admitted counts as a user, with an organisation, key, workspace and tool; whoever is not counts by address.
An address that has nothing left is refused before its credential is looked at, since to verify one is what it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from agentapi.errors import AgentAPIError, NotFoundError, RateLimitedError
from agentapi.gateway.search import CALL_TOOL
from agentapi.gateway.unknown import UnknownToolError
from agentapi.identity.access import ROUTES, Open, names_of
from agentapi.limits.rules import ToolUse
from agentapi.observability.metrics import RATE_LIMITED
from agentapi.policy.patterns import MAX_LENGTH, matches
from agentapi.principal import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentapi.gateway.access import AccessPolicy
    from agentapi.gateway.call import Call
    from agentapi.gateway.incoming import Incoming
    from agentapi.limits.room import LimitsRoom
    from agentapi.limits.standing import Asked, Standing
    from agentapi.principal import Principal

__all__ = ["Rates", "count_open_routes"]

_ADMINS: Final = frozenset({Role.PLATFORM_ADMIN, Role.ORG_ADMIN})
_PROBES: Final = frozenset({"/live", "/ready", "/health"})
"""Asked by what keeps the gateway running, and bounded by themselves."""


class Rates:
    """Counts requests.

    Args:
        limits: What there is to pass, who decides, and where requests came from.
        policy: Knows which tool a name means.
    """

    def __init__(self, limits: LimitsRoom, policy: AccessPolicy) -> None:
        self._rules = limits.rules
        self._limiter = limits.limiter
        self._addresses = limits.addresses
        self._policy = policy

    def look(self, scope: Scope) -> None:
        """Refuse a request from an address that has nothing left; nothing is counted.

        Raises:
            RateLimitedError: It comes from one, as far as this process knows.
        """
        if self._rules.address is None or (address := self._addresses.of(scope)) is None:
            return
        for asked in self._rules.of_address(address):
            standing = self._limiter.look(asked)
            if not standing.allowed:
                raise _refused(scope, standing)

    async def count_call(self, call: Call, incoming: Incoming | None, scope: Scope) -> None:
        """Count a request to a workspace.

        Raises:
            RateLimitedError: It has to wait.
            RedisUnavailableError: It cannot be counted, and has to be.
        """
        tool = None
        if self._rules.tools and incoming is not None and incoming.method == "tools/call":
            tool = await self._tool(call, incoming)
        await self._count(call.principal, call.view.workspace.slug, tool, scope)

    async def count(self, principal: Principal, scope: Scope) -> None:
        """Count any other request of ``principal``.

        An admin's is not counted with those of the organisation, whose members could keep its admin out otherwise.

        Raises:
            RateLimitedError: It has to wait.
            RedisUnavailableError: It cannot be counted, and has to be.
        """
        await self._count(principal, None, None, scope, alone=principal.role in _ADMINS)

    async def count_address(self, scope: Scope) -> None:
        """Count a request of nobody that is known.

        Raises:
            RateLimitedError: It has to wait.
            RedisUnavailableError: It cannot be counted, and has to be.
        """
        if self._rules.address is not None and (address := self._addresses.of(scope)) is not None:
            await self._take(self._rules.of_address(address), scope)

    async def count_failed(self, scope: Scope) -> AgentAPIError | None:
        """Count a request that is refused before it was counted; return what it is told instead, if anything."""
        principal: Principal | None = scope.get("state", {}).get("principal")
        try:
            if principal is None:
                await self.count_address(scope)
            else:
                await self.count(principal, scope)
        except AgentAPIError as error:
            return error
        return None

    async def _count(
        self, principal: Principal, workspace: str | None, tool: ToolUse | None, scope: Scope, *, alone: bool = False
    ) -> None:
        address = None if self._rules.address is None else self._addresses.of(scope)
        asked = self._rules.of_principal(principal, workspace=workspace, tool=tool, address=address, alone=alone)
        if asked:
            await self._take(asked, scope)

    async def _take(self, asked: list[Asked], scope: Scope) -> None:
        standing = await self._limiter.take(asked)
        if not standing.allowed:
            raise _refused(scope, standing)
        if standing.is_short:
            scope.setdefault("state", {})["fields"] = standing.fields

    async def _tool(self, call: Call, incoming: Incoming) -> ToolUse | None:
        """Return the tool that is called if it has a rule: by its name in the catalogue, which nobody can change."""
        name = incoming.params.get("name")
        try:
            if name == CALL_TOOL and await self._policy.search_mode(call.view, call.toolset, call.principal):
                arguments = incoming.params.get("arguments")
                name = arguments.get("name") if isinstance(arguments, dict) else None
            if not isinstance(name, str) or len(name) > MAX_LENGTH:
                # Nothing is called so, which the router will say.
                return None
            name = await self._policy.original(call.view, call.principal, name)
        except (UnknownToolError, NotFoundError):
            return None
        return next((ToolUse(name, rule) for rule in self._rules.tools if matches(rule.pattern, name)), None)


class _CountedByAddress:
    """A route that anybody may ask, behind the limit of the address."""

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        await self._rates.count_address(scope)
        await self._app(scope, receive, send)


def count_open_routes(routes: Iterable[BaseRoute], rates: Rates) -> None:
    """Count requests to the routes that are entered without a principal, but for the probes.

    Args:
        routes: The routes of the application; they are changed in place.
        rates: Counts.
    """
    for route in routes:
        rows = [ROUTES.get(name) for name in names_of(route)]
        counts_itself = any(row is Open.BY_MESSAGE or not isinstance(row, Open) for row in rows)
        if isinstance(route, Route) and not counts_itself and route.path not in _PROBES:
            route.app = _CountedByAddress(route.app, rates)


def _refused(scope: Scope, standing: Standing) -> RateLimitedError:
    RATE_LIMITED.labels(standing.name).inc()
    scope.setdefault("state", {})["fields"] = standing.fields
    return RateLimitedError(standing.retry_after_s, standing.name)
