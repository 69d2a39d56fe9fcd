"""The gateway's prompts as MCP clients of both eras see them: real gateways, a real upstream, the SDK's client."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.subscriptions import PromptsListChanged
from mcp_types import (
    GetPromptResult,
    ListPromptsResult,
    Prompt,
    PromptMessage,
    PromptReference,
    TextContent,
)
from starlette.applications import Starlette
from starlette.routing import Route

from agentapi.principal import Role
from agentapi.storage.notifier import WITHIN_S
from integration.api.harness import PUBLIC_URL, Api, lifespan_of, served, settings_for
from integration.api.test_configurations import assert_problem
from integration.api.test_policy import TOOLSETS
from support.plain import PLAIN
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from integration.api.harness import Caller

MODES: list[Literal["legacy", "2026-07-28"]] = ["legacy", "2026-07-28"]
PROMPTS = "/api/v1/prompts"
INVALID = -32602
STYLE = "agentapi__organization__style"
VARIABLES = [
    {"name": "tone", "choices": ["friendly", "formal", "frank"], "description": "How to sound."},
    {"name": "lines", "type": "integer", "default": 3},
    {"name": "emoji", "type": "boolean", "default": False},
    {"name": "warmth", "type": "number", "default": 0.5},
]
TEXT = "Be {{ tone }} in {{lines}} lines.\n\tEmoji: {{emoji}}, {{ warmth }}. Größe „{{x}\u201c"


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[str]:
    """A server with two prompts; one of them is called as one of the gateway's could be."""

    async def list_prompts(_ctx: Any, _params: Any) -> ListPromptsResult:
        return ListPromptsResult(prompts=[Prompt(name="greet"), Prompt(name=STYLE, description="the upstream's")])

    async def get_prompt(_ctx: Any, params: Any) -> GetPromptResult:
        text = TextContent(type="text", text=f"the upstream's {params.name}")
        return GetPromptResult(messages=[PromptMessage(role="user", content=text)])

    server = Server("prompts", on_list_prompts=list_prompts, on_get_prompt=get_prompt)
    manager = StreamableHTTPSessionManager(server, stateless=True, json_response=True)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    class Endpoint:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await manager.handle_request(scope, receive, send)

    async with served(Starlette(routes=[Route("/mcp", Endpoint())], lifespan=lifespan), lifespan=True) as url:
        yield f"{url}/mcp"


@dataclass
class World:
    """A gateway on a socket."""

    url: str
    api: Api

    @contextlib.asynccontextmanager
    async def client(
        self, mode: Any, *, path: str = "main", role: Role = Role.MEMBER, subject: str = "bob", **options: Any
    ) -> AsyncIterator[Client]:
        token = self.api.caller(role, subject).token
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.url}/mcp/{self.api.tenant.principal.org_slug}/{path}"
        async with (
            httpx2.AsyncClient(headers=headers, timeout=30, **PLAIN) as http,
            Client(
                streamable_http_client(url, http_client=http), mode=mode, read_timeout_seconds=30, **options
            ) as client,
        ):
            yield client

    async def names(self, mode: Any = "2026-07-28", **given: Any) -> list[str]:
        async with self.client(mode, **given) as client:
            return [prompt.name for prompt in (await client.list_prompts()).prompts]


@pytest.fixture(scope="module", params=[False, True], ids=["prefixed", "bare"])
async def gateway_url(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> AsyncIterator[str]:
    settings = settings_for(postgres, issuer, keyring, state_dir, bare_tool_names=request.param, list_page_size=2)
    async with lifespan_of(settings) as app, served(app) as url:
        yield url


@pytest.fixture(scope="module")
async def other_gateway(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> AsyncIterator[Starlette]:
    """Another replica."""
    async with lifespan_of(settings_for(postgres, issuer, keyring, state_dir)) as app:
        yield app


@pytest.fixture
async def world(gateway_url: str, issuer: TokenIssuer, database: Database) -> AsyncIterator[World]:
    async with httpx2.AsyncClient(base_url=gateway_url, timeout=30, **PLAIN) as http:
        yield World(gateway_url, Api(http, issuer, await make_tenant(database)))


async def put(caller: Caller, name: str = "style", **given: Any) -> dict[str, Any]:
    body = {"scope": "organization", "name": name, "text": f"text of {name}", **given}
    answer = await caller.request("POST", PROMPTS, json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.fixture
async def styled(world: World) -> World:
    await put(world.api.caller(), text=TEXT, variables=VARIABLES, description="How we write.")
    return world


@pytest.mark.parametrize("mode", MODES)
async def test_prompts_of_every_scope_are_listed_in_one_order_beside_those_of_upstreams(
    world: World, upstream: str, mode: Any
) -> None:
    admin, bob = world.api.caller(), world.api.caller(Role.MEMBER, "bob")
    await admin.created(name="zoo", endpoint=upstream)
    await put(bob, "mine", scope="user")
    await put(world.api.caller(Role.MEMBER, "eve"), "hers", scope="user")
    await put(admin, "here", scope="workspace", workspace="main")
    await put(admin, "style", priority=1)
    await put(admin, "b", priority=9)
    await put(admin, "off", enabled=False)
    own = ["agentapi__organization__b", STYLE, "agentapi__workspace__here", "agentapi__user__mine"]
    async with world.client(mode) as client:
        found: list[str] = []
        cursor: str | None = None
        for _ in range(9):
            page = await client.list_prompts(cursor=cursor)
            assert len(page.prompts) <= 2
            found += [prompt.name for prompt in page.prompts]
            cursor = page.next_cursor
            if cursor is None:
                break
        # Without prefixes the upstream has a prompt of a name that is the gateway's, and that one is hidden.
        assert found in ([*own, "zoo__greet", f"zoo__{STYLE}"], [*own, "greet"])
        theirs = found[len(own)]
        answer = await client.get_prompt(STYLE)
        assert [message.content for message in answer.messages] == [TextContent(type="text", text="text of style")]
        (message,) = (await client.get_prompt(theirs)).messages
        assert message.content == TextContent(type="text", text="the upstream's greet")
        for missing in ("agentapi__user__hers", "agentapi__organization__off", "agentapi__global__none", "agentapi__"):
            with pytest.raises(MCPError, match="Unknown prompt") as caught:
                await client.get_prompt(missing)
            assert caught.value.code == INVALID


@pytest.mark.parametrize("mode", MODES)
async def test_variables_are_arguments(styled: World, mode: Any) -> None:
    async with styled.client(mode) as client:
        (prompt,) = (await client.list_prompts()).prompts
        assert (prompt.name, prompt.description) == (STYLE, "How we write.")
        assert [(each.name, each.required, each.description) for each in prompt.arguments or ()] == [
            ("tone", True, "How to sound. One of: friendly, formal, frank."),
            ("lines", False, "A whole number."),
            ("emoji", False, "true or false."),
            ("warmth", False, "A number."),
        ]
        given = {"tone": "frank", "lines": "12", "emoji": "true", "warmth": "-1.5e3"}
        (message,) = (await client.get_prompt(STYLE, given)).messages
        text = "Be frank in 12 lines.\n\tEmoji: true, -1500.0. Größe „{{x}\u201c"
        assert (message.role, message.content) == ("user", TextContent(type="text", text=text))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "tone: It has no default, so a value has to be given."),
        ({"tone": "rude"}, "tone: It is one of the declared choices."),
        ({"tone": "frank", "lines": "3.5"}, "lines: It is a whole number of 64 bits."),
        ({"tone": "frank", "lines": "9999999999999999999"}, "lines: It is a whole number of 64 bits."),
        ({"tone": "frank", "lines": " 3"}, "lines: It is a whole number of 64 bits."),
        ({"tone": "frank", "lines": "٣"}, "lines: It is a whole number of 64 bits."),
        ({"tone": "frank", "emoji": "yes"}, "emoji: It is true or false."),
        ({"tone": "frank", "warmth": "nan"}, "warmth: It is a number."),
        ({"tone": "frank", "warmth": "1e999"}, "warmth: It is a number."),
        ({"tone": "frank", "more": "1"}, "more: No prompt declares this variable."),
    ],
)
async def test_arguments_that_do_not_fit_are_refused_by_name(
    styled: World, mode: Any, given: dict[str, str], says: str
) -> None:
    async with styled.client(mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.get_prompt(STYLE, given)
    name = says.partition(":")[0]
    assert caught.value.code == INVALID
    assert caught.value.message == f"The arguments do not fit the prompt. {says}"
    assert caught.value.data == {"code": "invalid_request", "fields": [f"/arguments/{name}"]}


@pytest.mark.parametrize("mode", MODES)
async def test_choices_are_completed(styled: World, mode: Any) -> None:
    ref = PromptReference(type="ref/prompt", name=STYLE)

    async def completed(client: Client, name: str, value: str) -> list[str]:
        answer = (await client.complete(ref, {"name": name, "value": value})).completion
        assert answer.total == len(answer.values)
        return answer.values

    async with styled.client(mode) as client:
        assert await completed(client, "tone", "") == ["friendly", "formal", "frank"]
        assert await completed(client, "tone", "FR") == ["friendly", "frank"]
        assert await completed(client, "tone", "x") == []
        assert await completed(client, "emoji", "t") == ["true"]
        assert await completed(client, "lines", "1") == []
        with pytest.raises(MCPError, match="no such argument") as caught:
            await completed(client, "none", "")
        assert caught.value.code == INVALID


@pytest.mark.parametrize("mode", MODES)
async def test_a_role_lists_and_gets_what_the_table_of_permissions_says(styled: World, mode: Any) -> None:
    for role in (Role.VIEWER, Role.AGENT):
        async with styled.client(mode, role=role, subject=f"a-{role}") as client:
            assert [prompt.name for prompt in (await client.list_prompts()).prompts] == [STYLE]
            if role is Role.AGENT:
                assert (await client.get_prompt(STYLE, {"tone": "frank"})).messages
                continue
            with pytest.raises(MCPError, match="lacks the permission"):
                await client.get_prompt(STYLE, {"tone": "frank"})
            with pytest.raises(MCPError, match="lacks the permission"):
                await client.complete(PromptReference(type="ref/prompt", name=STYLE), {"name": "tone", "value": ""})


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_workspace_without_upstreams_says_what_it_has(world: World, mode: Any) -> None:
    async with world.client(mode) as client:
        assert client.server_capabilities.prompts is not None
        assert client.server_capabilities.prompts.list_changed is True
        assert client.server_capabilities.completions is None
    await put(world.api.caller(), text=TEXT, variables=VARIABLES)
    async with world.client(mode) as client:
        assert client.server_capabilities.completions is not None


async def test_another_organisation_sees_none_of_them(styled: World, database: Database) -> None:
    stranger = World(styled.url, Api(styled.api.http, styled.api.issuer, await make_tenant(database)))
    assert await stranger.names() == []
    async with stranger.client("2026-07-28") as client:
        with pytest.raises(MCPError, match="Unknown prompt"):
            await client.get_prompt(STYLE, {"tone": "frank"})


@pytest.mark.parametrize("mode", MODES)
async def test_a_toolset_selects_them_by_either_name(world: World, mode: Any) -> None:
    admin = world.api.caller()
    await put(admin, "style")
    await put(admin, "other")
    for name, patterns, shown in (
        ("all", ["*"], ["agentapi__organization__other", STYLE]),
        ("public", ["agentapi__organization__s*"], [STYLE]),
        ("own", ["style"], [STYLE]),
        ("none", [], []),
    ):
        body = {"name": name, "tools": ["*"], "prompts": patterns}
        assert (await admin.request("POST", TOOLSETS, json=body)).status_code == 201
        assert await world.names(mode, path=f"main/{name}") == shown
        async with world.client(mode, path=f"main/{name}") as client:
            if shown:
                assert (await client.get_prompt(STYLE)).messages
                continue
            with pytest.raises(MCPError, match="Unknown prompt"):
                await client.get_prompt(STYLE)


async def test_how_long_a_list_is_good_and_for_whom(styled: World) -> None:
    async with styled.client("2026-07-28") as client:
        page = await client.list_prompts()
    assert (page.cache_scope, page.ttl_ms) == ("private", 60_000)


async def test_a_get_is_recorded_with_the_prompt_it_was_about(world: World) -> None:
    admin = world.api.caller()
    stored = await put(admin, "style", text="{{a}}", variables=[{"name": "a"}])
    async with world.client("2026-07-28") as client:
        await client.get_prompt(STYLE, {"a": "private words"})
        with pytest.raises(MCPError):
            await client.get_prompt(STYLE)
    async with world.client("legacy", role=Role.VIEWER, subject="vera") as client:
        with pytest.raises(MCPError):
            await client.get_prompt(STYLE, {"a": "1"})
    answer = await admin.request("GET", "/api/v1/audit", params={"action": "prompts.get"})
    rows = answer.json()["items"]
    assert sorted(row["outcome"] for row in rows) == ["denied", "failure", "success"]
    assert {(row["resource"], row["details"]["name"]) for row in rows} == {(f"prompt:{stored['id']}", "style")}
    assert "private words" not in answer.text


@pytest.mark.parametrize("body", [{"name": "agentapi"}])
async def test_no_upstream_takes_the_reserved_name(world: World, body: dict[str, Any]) -> None:
    problem = assert_problem(await world.api.caller().create(**body), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/name"]


@pytest.mark.parametrize("mode", MODES)
async def test_open_streams_are_told_of_a_change_whichever_process_made_it(
    world: World, other_gateway: Starlette, mode: Any
) -> None:
    admin = world.api.caller()
    told: asyncio.Queue[str] = asyncio.Queue()

    async def notified(message: object) -> None:
        method = getattr(message, "method", None) or getattr(getattr(message, "root", None), "method", "")
        if method == "notifications/prompts/list_changed":
            told.put_nowait(method)

    @contextlib.asynccontextmanager
    async def listening() -> AsyncIterator[Client]:
        if mode == "legacy":
            async with world.client(mode, message_handler=notified) as client:
                await client.list_prompts()
                yield client
            return
        async with world.client(mode) as client, client.listen(prompts_list_changed=True) as subscription:

            async def hear() -> None:
                async for event in subscription:
                    if isinstance(event, PromptsListChanged):
                        told.put_nowait("changed")

            hearing = asyncio.ensure_future(hear())
            yield client
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    transport = httpx2.ASGITransport(app=other_gateway)
    async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http, listening() as client:
        elsewhere = Api(http, world.api.issuer, world.api.tenant).caller()
        for caller, name in ((admin, "here"), (elsewhere, "there")):
            await put(caller, name)
            await asyncio.wait_for(told.get(), WITHIN_S)
            listed = await client.list_prompts(cache_mode="bypass")
            assert f"agentapi__organization__{name}" in [prompt.name for prompt in listed.prompts]
        # Somebody else's own prompt is nobody's news.
        await put(world.api.caller(Role.MEMBER, "eve"), "hers", scope="user")
        await put(world.api.caller(Role.MEMBER, "bob"), "mine", scope="user")
        await asyncio.wait_for(told.get(), WITHIN_S)
        assert told.empty()
