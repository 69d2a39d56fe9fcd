"""Clients and upstreams of both eras, crossed in all four ways, through the real gateway on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    Root,
    TextContent,
)

from integration.api.crossing_server import crossing_server
from integration.api.harness import Api, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

Mode = Literal["legacy", "2026-07-28", "auto"]
MODES: tuple[Mode, ...] = ("legacy", "2026-07-28")
UPSTREAMS = ("old", "new")

all_upstreams = pytest.mark.parametrize("name", UPSTREAMS)
pytestmark = pytest.mark.parametrize("mode", MODES)


@dataclass(slots=True)
class Person:
    """Who sits before the client: what they were told and asked."""

    asked: list[str] = field(default_factory=list)
    logged: list[Any] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    async def elicit(self, _: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action="accept", content={"city": "Bern"})

    async def sample(self, _: Any, params: Any) -> CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", content=TextContent(text="autumn"), model="m")

    async def roots(self, _: Any) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri="file:///home")])

    async def log(self, params: Any) -> None:
        self.logged.append(params.data)

    async def hear(self, message: Any) -> None:
        self.heard.append(getattr(message, "method", "?"))

    def callbacks(self) -> dict[str, Any]:
        return {
            "elicitation_callback": self.elicit,
            "sampling_callback": self.sample,
            "list_roots_callback": self.roots,
            "logging_callback": self.log,
            "message_handler": self.hear,
        }


@pytest.fixture(scope="module")
async def upstream_urls() -> AsyncIterator[dict[str, str]]:
    """The same server twice: SSE knows the handshake alone, Streamable HTTP is found to be modern."""
    async with (
        served(crossing_server().sse_app(), lifespan=True) as old,
        served(crossing_server().streamable_http_app(), lifespan=True) as new,
    ):
        yield {"old": f"{old}/sse", "new": f"{new}/mcp"}


@pytest.fixture(scope="module")
async def address(gateway: Starlette) -> AsyncIterator[str]:
    async with served(gateway) as url:
        yield url


@dataclass(frozen=True, slots=True)
class Way:
    """One client's way to one workspace with both upstreams."""

    url: str
    token: str
    mode: Mode

    @contextlib.asynccontextmanager
    async def open(self, **options: Any) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=20) as http:
            transport = streamable_http_client(self.url, http_client=http)
            async with Client(transport, mode=self.mode, read_timeout_seconds=20, **options) as client:
                yield client


@pytest.fixture
async def way(api: Api, address: str, upstream_urls: dict[str, str], mode: Mode) -> Way:
    caller = api.caller()
    for name, url in upstream_urls.items():
        await caller.created(name=name, endpoint=url, transport="sse" if name == "old" else "http")
    return Way(f"{address}/mcp/{api.tenant.principal.org_slug}/main", caller.token, mode)


@all_upstreams
async def test_progress_and_log_messages_come_before_the_answer(way: Way, name: str) -> None:
    person, reports = Person(), []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    async with way.open(**person.callbacks(), log_level="info") as client:
        result = await client.call_tool(f"{name}__work", {}, progress_callback=report)
    assert result.content[0].text == "done"  # type: ignore[union-attr] # a text
    assert reports == [(1, 2, "half"), (2, 2, "whole")]
    assert person.logged == ["working"]


@all_upstreams
async def test_what_the_upstream_asks_reaches_the_person_and_the_answer_the_upstream(way: Way, name: str) -> None:
    person = Person()
    async with way.open(**person.callbacks()) as client:
        for _ in range(2):
            result = await client.call_tool(f"{name}__travel", {})
            assert result.content[0].text == "Bern, autumn, file:///home"  # type: ignore[union-attr] # a text
    assert sorted(person.asked) == sorted(["Which city?", "Season in Bern?", "roots"] * 2)


@all_upstreams
async def test_a_client_that_cannot_be_asked_gets_a_clear_error(way: Way, name: str) -> None:
    async with way.open() as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(f"{name}__travel", {})
    assert caught.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert caught.value.data["requiredCapabilities"]


@all_upstreams
async def test_resources_are_listed_and_read_under_their_public_uris(way: Way, name: str) -> None:
    async with way.open() as client:
        uris = [str(resource.uri) for resource in (await client.list_resources()).resources]
        assert uris == [f"mcp+{each}+test://static" for each in sorted(UPSTREAMS)]
        templates = [each.uri_template for each in (await client.list_resource_templates()).resource_templates]
        assert templates == [f"mcp+{each}+test://item/{{id}}" for each in sorted(UPSTREAMS)]
        for uri, text in ((f"mcp+{name}+test://static", "text"), (f"mcp+{name}+test://item/7", "item 7")):
            (contents,) = (await client.read_resource(uri)).contents
            assert (str(contents.uri), contents.text) == (uri, text)  # type: ignore[union-attr] # a text
        linked = (await client.call_tool(f"{name}__link", {})).content[0]
        assert str(linked.uri) == f"mcp+{name}+test://static"  # type: ignore[union-attr] # a link
        with pytest.raises(MCPError):
            await client.read_resource(f"mcp+{name}+test://missing")
        with pytest.raises(MCPError, match="Resource not found"):
            await client.read_resource("mcp+nobody+test://static")


@all_upstreams
async def test_prompts_and_completions_go_to_their_upstream(way: Way, name: str) -> None:
    async with way.open() as client:
        assert [p.name for p in (await client.list_prompts()).prompts] == [
            f"{each}__greet" for each in sorted(UPSTREAMS)
        ]
        prompt = await client.get_prompt(f"{name}__greet", {"name": "Ada"})
        assert prompt.messages[0].content.text == "Hello Ada"  # type: ignore[union-attr] # a text
        argument = {"name": "name", "value": "A"}
        completed = await client.complete(PromptReference(name=f"{name}__greet"), argument)
        assert completed.completion.values == ["greet: A!"]
        reference = ResourceTemplateReference(uri=f"mcp+{name}+test://item/{{id}}")
        completed = await client.complete(reference, {"name": "id", "value": "7"})
        assert completed.completion.values == ["test://item/{id}: 7!"]
        with pytest.raises(MCPError, match="Unknown prompt"):
            await client.get_prompt(f"{name}__{uuid4().hex}", {})


async def test_a_workspace_can_do_what_its_upstreams_can(way: Way) -> None:
    asking = replace(way, mode="legacy" if way.mode == "legacy" else "auto")
    async with asking.open() as client:
        told = client.server_capabilities.model_dump(exclude_none=True)
    assert told.keys() >= {"tools", "resources", "prompts", "completions"}


async def test_a_change_is_heard_by_whoever_listens(way: Way) -> None:
    # The old one is left out: the SDK's server tells clients of the older revisions nothing of itself. What such an
    # upstream reports is in the unit tests of ``upstreams.listening`` and ``gateway.subscriptions``.
    name = "new"
    uri, person = f"mcp+{name}+test://static", Person()
    async with way.open(**person.callbacks()) as client, asyncio.timeout(20):
        if way.mode == "legacy":
            with pytest.warns(MCPDeprecationWarning):
                await client.subscribe_resource(uri)
            while not {"notifications/tools/list_changed", "notifications/resources/updated"} <= set(person.heard):
                await client.call_tool(f"{name}__touch", {})
            return
        async with client.listen(tools_list_changed=True, resource_subscriptions=[uri]) as events:
            await client.call_tool(f"{name}__touch", {})
            heard = {await anext(events), await anext(events)}
    assert heard == {ToolsListChanged(), ResourceUpdated(uri)}
