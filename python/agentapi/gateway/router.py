"""From a client's request to its answer: which upstream it concerns, and what the eras of the two make of it.

What concerns the whole workspace (discovery, lists) is answered here. Everything else goes to the one upstream that
the name or URI in it belongs to, rewritten on the way there and back, and translated where client and upstream are of
different eras: see ``forwarding``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from mcp import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND

from agentapi.errors import AgentAPIError
from agentapi.gateway.account_tool import account_tool, connected, upstream_to_connect
from agentapi.gateway.discovery import Discovery
from agentapi.gateway.exchange import Interest
from agentapi.gateway.forwarding import caller_of
from agentapi.gateway.items import Target
from agentapi.gateway.listing import Kind
from agentapi.gateway.names import split_uri
from agentapi.gateway.rewrite import Rewriter
from agentapi.gateway.search import CALL_TOOL, FIND_TOOLS, SEARCH_TOOLS, Finder, inner_call
from agentapi.gateway.subscriptions import Source
from agentapi.gateway.unknown import UnknownToolError, unknown_prompt, unknown_tool
from agentapi.identity.permissions import Permission, permits, require
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentapi.errors import UpstreamNeedsConnectionError
    from agentapi.gateway.access import AccessPolicy
    from agentapi.gateway.catalogue import Catalogue
    from agentapi.gateway.connect_on_demand import ConnectOnDemand
    from agentapi.gateway.exchange import Exchange, Visitor
    from agentapi.gateway.forwarding import Forwarder
    from agentapi.gateway.items import ListedItem
    from agentapi.gateway.own_prompts import OwnPrompts
    from agentapi.gateway.pages import Pages
    from agentapi.gateway.parked import ParkedCalls
    from agentapi.gateway.recording import CallRecorder
    from agentapi.gateway.subscriptions import Subscriptions
    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.models import Upstream

__all__ = ["Router", "Target"]

_RESOURCE_NOT_FOUND: Final = -32002
"""Of the older revisions (specification 2025-11-25, "Resources"); the modern one says invalid params."""
_MAX_ECHO: Final = 200
"""How much of a URI that came from outside is repeated in an error."""

_LISTS: Final[dict[str, tuple[Kind, Permission]]] = {
    "tools/list": (Kind.TOOLS, Permission.TOOLS_LIST),
    "resources/list": (Kind.RESOURCES, Permission.RESOURCES_LIST),
    "resources/templates/list": (Kind.TEMPLATES, Permission.RESOURCES_LIST),
    "prompts/list": (Kind.PROMPTS, Permission.PROMPTS_LIST),
}
_TARGETED: Final = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"})
_SUBSCRIPTIONS: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})


class Router:
    """Answers the requests of every client of every workspace.

    Args:
        client: Speaks to the upstreams.
        catalogue: What they list.
        policy: What may be seen and used.
        pages: Cuts lists.
        forwarder: Sends what concerns one upstream there.
        parked: Calls that wait for their users.
        subscriptions: Changes of upstreams.
        recorder: Writes what becomes of calls into the audit log.
        own: The gateway's own prompts.
        connect: Answers calls that lack a connection.
        profile_timeout_s: How long discovery waits for an upstream.
    """

    def __init__(
        self,
        *,
        client: UpstreamClient,
        catalogue: Catalogue,
        policy: AccessPolicy,
        pages: Pages,
        forwarder: Forwarder,
        parked: ParkedCalls,
        subscriptions: Subscriptions,
        recorder: CallRecorder,
        own: OwnPrompts,
        connect: ConnectOnDemand,
        profile_timeout_s: float,
    ) -> None:
        self._client = client
        self.catalogue = catalogue
        self._policy = policy
        self._pages = pages
        self._forwarder = forwarder
        self._parked = parked
        self.subscriptions = subscriptions
        self._recorder = recorder
        self._own = own
        self.connect = connect
        self._discovery = Discovery(client, own, timeout_s=profile_timeout_s)
        self._finder = Finder()
        client.on_change(self._changed)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Own everything that goes on in the background for the length of the context."""
        async with self.catalogue.run(), self._parked.run(), self.subscriptions.run():
            yield

    async def answer(self, exchange: Exchange) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            MCPError: An error of the protocol, passed on as it is.
            AgentAPIError: Everything else that was foreseen.
        """
        return await self.connect.answered(await self.meant(exchange), self._answer)

    async def _answer(self, exchange: Exchange) -> dict[str, Any]:
        method, modern = exchange.method, exchange.client.era is Era.MODERN
        if method in _TARGETED:
            own = await self._own.named(exchange)
            if own is not None:
                return await self._own.answer(exchange, own)
            target = await self.target(exchange)
            return await self._recorder.recorded(exchange, target, lambda: self._targeted(exchange, target))
        if method in _LISTS:
            return await self._list(exchange)
        if modern and method == "server/discover":
            return await self._discovery.answer(exchange, ttl_s=self.catalogue.ttl_s)
        if not modern and method in _SUBSCRIPTIONS:
            await self._check_subscription(exchange)
            return {}
        if not modern and method in {"ping", "logging/setLevel"}:
            return {}
        raise MCPError(METHOD_NOT_FOUND, "There is no such method.", {"method": method})

    async def connection_needed(self, exchange: Exchange, error: UpstreamNeedsConnectionError) -> dict[str, Any]:
        """Return the result that sends the user of a request to connect, which ``target`` found to be needed."""
        return self.connect.asked(exchange, error)

    async def meant(self, exchange: Exchange) -> Exchange:
        """Return the request that is meant: in search mode ``call_tool`` stands for the call that it asks for.

        Raises:
            InvalidRequestError: It asks for none.
            MCPError: It is the retry of one whose user would not connect an account.
        """
        exchange = self.connect.resumed(exchange)
        is_inner = exchange.name == CALL_TOOL and await self._searches(exchange)
        return inner_call(exchange) if is_inner else exchange

    def finished(self, exchange: Exchange, target: Target, result: dict[str, Any]) -> dict[str, Any]:
        """Return what a modern client is to see of a result that came by the relay."""
        return self._forwarder.finished(exchange, target, self._rewriter(exchange, target), result)

    async def target(self, exchange: Exchange) -> Target | None:
        """Return the upstream that alone answers the request that is ``meant``, or None if none does.

        Raises:
            MCPError: The request names nothing that its caller can see.
            AgentAPIError: The caller may not do this, or the upstream cannot be asked what it has.
        """
        try:
            return await self._sought(exchange)
        except (MCPError, AgentAPIError) as error:
            await self._recorder.refused(exchange, error)
            raise

    async def _sought(self, exchange: Exchange) -> Target | None:
        match exchange.method:
            case "tools/call":
                is_ours = self._unlisted(exchange) is not None or (
                    exchange.name == FIND_TOOLS and await self._searches(exchange)
                )
                return None if is_ours else await self._tool(exchange)
            case "prompts/get":
                own = await self._own.named(exchange)
                return None if own is not None else await self._prompt(exchange, exchange.name)
            case "resources/read":
                return await self._resource(exchange, exchange.params.get("uri"))
            case "completion/complete":
                ref = exchange.params.get("ref")
                ref = ref if isinstance(ref, dict) else {}
                if ref.get("type") == "ref/prompt":
                    return await self._prompt(exchange, ref.get("name"))
                return await self._resource(exchange, ref.get("uri"))
        return None

    async def _targeted(self, exchange: Exchange, target: Target | None) -> dict[str, Any]:
        if target is None and (upstream := self._unlisted(exchange)) is not None:
            return await self._connect_account(exchange, upstream)
        if target is None and exchange.method == "tools/call":
            return await self._find(exchange)
        if target is None:
            # A prompt of the gateway's own that has come or gone since it was looked for.
            raise unknown_prompt(str(exchange.params.get("name")))
        return await self._forwarder.forward(exchange, target, self._rewriter(exchange, target))

    async def capabilities(self, visitor: Visitor) -> dict[str, Any]:
        """Return what the upstreams of the workspace can do together."""
        return await self._discovery.capabilities(visitor)

    async def instructions(self, visitor: Visitor) -> str | None:
        """Return what the upstreams have a client's model told, each under its name where there are several."""
        return await self._discovery.instructions(visitor)

    async def notified(self, visitor: Visitor, method: str, params: dict[str, Any]) -> None:
        """Pass on that a client's roots changed to the upstreams that its session has spoken to."""
        if method != "notifications/roots/list_changed" or not visitor.client.conversation:
            return
        for upstream in visitor.view.upstreams:
            with contextlib.suppress(AgentAPIError, MCPError):
                await self._client.notify(upstream, caller_of(visitor), method, params)

    @contextlib.asynccontextmanager
    async def listen(
        self, visitor: Visitor, interest: Interest, on_event: Callable[[str, dict[str, Any]], None]
    ) -> AsyncIterator[Interest]:
        """Report the changes that ``visitor`` may know of until the context ends; it yields what is reported."""
        principal, upstreams = visitor.principal, visitor.view.upstreams
        may_read = permits(principal, Permission.RESOURCES_READ)
        bare = self.catalogue.is_bare(upstreams)
        sources: list[Source] = []
        honoured: set[str] = set()
        for upstream in upstreams:
            rewriter = Rewriter(upstream.name, bare)
            mine = {uri: rewriter.own_uri(uri) for uri in interest.uris if may_read and _belongs(uri, upstream, bare)}
            mine = {uri: own for uri, own in mine.items() if await self._selects(visitor, (uri, own))}
            honoured |= mine.keys()
            sources.append(Source(upstream, rewriter, frozenset(mine.values())))
        reported = Interest(
            tools=interest.tools and permits(principal, Permission.TOOLS_LIST),
            prompts=interest.prompts and permits(principal, Permission.PROMPTS_LIST),
            resources=interest.resources and permits(principal, Permission.RESOURCES_LIST),
            uris=frozenset(honoured),
        )
        async with self.subscriptions.listen(principal, visitor.view.workspace.id, sources, reported, on_event):
            yield reported

    async def ended(self, visitor: Visitor) -> None:
        """Close the connections of a conversation that its client has ended."""
        if visitor.client.conversation:
            self._client.end_conversation(visitor.principal.org_id, visitor.client.conversation)

    def connection_changed(self, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId, gone: bool) -> None:
        """Forget what an upstream listed to a user whose connection has changed, and go on with what waits for it."""
        lists_change = self.catalogue.forget(upstream_id, user_id) or gone
        self.connect.changed(org_id, user_id, upstream_id, gone)
        # A token that was only renewed is no news to a client.
        if lists_change:
            self.subscriptions.announce_to(upstream_id, user_id)

    def _rewriter(self, exchange: Exchange, target: Target) -> Rewriter:
        return Rewriter(target.upstream.name, self.catalogue.is_bare(exchange.view.upstreams))

    def _changed(self, upstream: Upstream, user_id: UserId, method: str, params: dict[str, Any]) -> None:
        # A client that is told asks at once, so what is kept must go first.
        self.catalogue.changed(upstream.id, method)
        self.subscriptions.changed(upstream, user_id, method, params)

    async def _list(self, exchange: Exchange) -> dict[str, Any]:
        kind, permission = _LISTS[exchange.method]
        require(exchange.principal, permission)
        if kind is Kind.TOOLS and await self._policy.search_mode(exchange.view, exchange.toolset, exchange.principal):
            tools = {"tools": list(SEARCH_TOOLS)}
            if exchange.client.era is not Era.MODERN:
                return tools
            fresh_ms = int(self.catalogue.ttl_s * 1000)
            return {"resultType": "complete", "ttlMs": fresh_ms, "cacheScope": "private", **tools}
        found = await self.catalogue.collect(exchange.view.upstreams, exchange.principal, kind)
        where = (exchange.view, exchange.toolset, exchange.principal)
        items: list[ListedItem]
        if kind is not Kind.TOOLS:
            own = await self._own.listed(exchange) if kind is Kind.PROMPTS else []
            hidden = {each.name for each in own}
            selected = await self._policy.selected(*where, kind, found.items)
            items = [*own, *(each for each in selected if each.name not in hidden)]
        else:
            items = list(await self._policy.apply(*where, found.items))
            if exchange.toolset is None and permits(exchange.principal, Permission.TOOLS_CALL):
                # A toolset is a selection, and nobody can have selected this.
                bare = self.catalogue.is_bare(exchange.view.upstreams)
                items += [account_tool(upstream, bare=bare) for upstream in found.unconnected]
        head: dict[str, Any] = {}
        if exchange.client.era is Era.MODERN:
            # Lists vary by authorization, so no client may share them.
            head = {"resultType": "complete", "ttlMs": int(found.fresh_s * 1000), "cacheScope": "private"}
        return self._pages.page(exchange, kind, items, exchange.params.get("cursor"), head)

    async def _tool(self, exchange: Exchange) -> Target:
        principal, view, name = exchange.principal, exchange.view, exchange.name
        require(principal, Permission.TOOLS_CALL)
        if name is None:
            raise MCPError(INVALID_PARAMS, "The name of the tool is missing.")
        original = await self._policy.original(view, principal, name)
        tool = self.catalogue.find_at_hand(view.upstreams, principal, Kind.TOOLS, original)
        if tool is None:
            try:
                tool = await self.catalogue.find(view.upstreams, principal, Kind.TOOLS, original)
            except UnknownToolError:
                raise unknown_tool(name) from None
        return (await self._policy.require(view, exchange.toolset, principal, tool)).target

    def _unlisted(self, exchange: Exchange) -> Upstream | None:
        """Return the upstream whose account the tool is to connect that a request calls, if it has no such tool."""
        view, name = exchange.view, exchange.name
        if exchange.method != "tools/call" or exchange.toolset is not None:
            return None
        upstream = upstream_to_connect(view.upstreams, name, bare=self.catalogue.is_bare(view.upstreams))
        if upstream is None or name is None:
            return None
        listed = self.catalogue.find_at_hand(view.upstreams, exchange.principal, Kind.TOOLS, name)
        return upstream if listed is None else None

    async def _connect_account(self, exchange: Exchange, upstream: Upstream) -> dict[str, Any]:
        """Say that there is a connection.

        Raises:
            UpstreamNeedsConnectionError: There is none.
        """
        require(exchange.principal, Permission.TOOLS_CALL)
        await self._client.connect(upstream, caller_of(exchange))
        result = connected(upstream)
        return {"resultType": "complete", **result} if exchange.client.era is Era.MODERN else result

    async def _searches(self, exchange: Exchange) -> bool:
        """Return whether a request that names a tool of search mode calls it, and the workspace is in that mode."""
        if exchange.method != "tools/call" or exchange.inner:
            return False
        return await self._policy.search_mode(exchange.view, exchange.toolset, exchange.principal)

    async def _find(self, exchange: Exchange) -> dict[str, Any]:
        """Answer ``find_tools``, over what the client would be listed without search mode."""
        principal, view = exchange.principal, exchange.view
        require(principal, Permission.TOOLS_LIST)
        found = await self.catalogue.collect(view.upstreams, principal, Kind.TOOLS)
        tools = await self._policy.apply(view, exchange.toolset, principal, found.items)
        result = self._finder.find(tools, exchange.params.get("arguments"))
        return {"resultType": "complete", **result} if exchange.client.era is Era.MODERN else result

    async def _prompt(self, exchange: Exchange, name: object) -> Target:
        require(exchange.principal, Permission.PROMPTS_GET)
        if not isinstance(name, str):
            raise MCPError(INVALID_PARAMS, "The name of the prompt is missing.")
        view, principal = exchange.view, exchange.principal
        prompt = await self.catalogue.find(view.upstreams, principal, Kind.PROMPTS, name)
        names = (name, prompt.upstream_name)
        if not await self._policy.selects(view, exchange.toolset, principal, Kind.PROMPTS, names):
            raise unknown_prompt(name)
        return prompt.target

    async def _resource(self, exchange: Exchange, uri: object) -> Target:
        """Return whose resource ``uri`` is; a resource need not be listed, since a template may have made it."""
        require(exchange.principal, Permission.RESOURCES_READ)
        if not isinstance(uri, str):
            raise MCPError(INVALID_PARAMS, "The URI of the resource is missing.")
        bare = self.catalogue.is_bare(exchange.view.upstreams)
        for upstream in exchange.view.upstreams:
            if _belongs(uri, upstream, bare):
                own = Rewriter(upstream.name, bare).own_uri(uri)
                if await self._selects(exchange, (uri, own)):
                    return Target(upstream, "uri", own, uri, repeatable=True)
        code = INVALID_PARAMS if exchange.client.era is Era.MODERN else _RESOURCE_NOT_FOUND
        raise MCPError(code, "Resource not found.", {"uri": uri[:_MAX_ECHO]})

    async def _selects(self, visitor: Visitor, names: tuple[str, ...]) -> bool:
        """Return whether the resource that goes by ``names`` is in the toolset by which the client came."""
        where = (visitor.view, visitor.toolset, visitor.principal)
        return await self._policy.selects(*where, Kind.RESOURCES, names)

    async def _check_subscription(self, exchange: Exchange) -> None:
        target = await self._resource(exchange, exchange.params.get("uri"))
        profile = await self._client.profile(target.upstream, caller_of(exchange))
        resources = profile.capabilities.get("resources")
        if not isinstance(resources, dict) or resources.get("subscribe") is not True:
            raise MCPError(
                METHOD_NOT_FOUND,
                f"Upstream '{target.upstream.name}' offers no subscriptions.",
                {"method": exchange.method},
            )


def _belongs(uri: str, upstream: Upstream, bare: bool) -> bool:
    if bare:
        return True
    split = split_uri(uri)
    return split is not None and split[0] == upstream.name
