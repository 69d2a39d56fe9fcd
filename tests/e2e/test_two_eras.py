"""Clients and upstreams of both eras in all four ways, over every transport: everything a client may ask.

Each test also runs without the gateway where client and upstream are of one era, so that what is expected here
is what the official SDK's client gets from its own server.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import PromptReference, ResourceTemplateReference

from support.clients import list_tools
from support.eras import KINDS, MODES, EraUpstream, Respondent, era_upstreams, mcp_config
from support.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mcp import Client
    from mcp.types import CallToolResult

    from support.clients import Mode

# The modern revision keeps logging only for those who have it; the gateway carries it all the same.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


@dataclass(frozen=True, slots=True)
class Way:
    """How a client of one era reaches an upstream: directly, or through the gateway under another name."""

    upstream: EraUpstream
    mode: Mode
    gateway: Gateway | None

    def name(self, own: str) -> str:
        """Return the name of a tool or prompt."""
        return own if self.gateway is None else f"{self.upstream.name}__{own}"

    def uri(self, own: str) -> str:
        return own if self.gateway is None else f"mcp+{self.upstream.name}+{own}"

    @asynccontextmanager
    async def client(self, respondent: Respondent | None = None) -> AsyncIterator[Client]:
        options = {} if respondent is None else respondent.options
        connecting = (
            self.upstream.connect(**options) if self.gateway is None else self.gateway.mcp(self.mode, **options)
        )
        async with connecting as client:
            yield client


@pytest.fixture(scope="module")
def upstreams(module_directory: Path) -> Iterator[dict[str, EraUpstream]]:
    with era_upstreams(module_directory) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, EraUpstream], module_directory: Path) -> Iterator[Gateway]:
    with Gateway.start(*mcp_config(module_directory, upstreams), data_dir=module_directory / "data") as running:
        yield running


def _ways() -> list[tuple[str, Mode, bool]]:
    direct: list[tuple[str, Mode, bool]] = [
        (kind, "legacy" if era == "legacy" else "2026-07-28", False) for kind, (_, era) in KINDS.items()
    ]
    return direct + [(kind, mode, True) for kind in KINDS for mode in MODES]


def _way_id(case: tuple[str, Mode, bool]) -> str:
    kind, mode, through = case
    return f"{mode} client, {kind}, {'gateway' if through else 'direct'}"


@pytest.fixture(params=_ways(), ids=_way_id)
def way(request: pytest.FixtureRequest, upstreams: dict[str, EraUpstream]) -> Way:
    kind, mode, through = request.param
    return Way(upstreams[kind], mode, request.getfixturevalue("gateway") if through else None)


def _texts(result: CallToolResult) -> list[str]:
    return [block.text for block in result.content if block.type == "text"]


async def test_tools(way: Way) -> None:
    async with way.client() as client:
        tools = {tool.name: tool for tool in await list_tools(client)}
        echo = tools[way.name("echo")]
        assert echo.description == "Say it back."
        assert echo.annotations is not None
        assert echo.annotations.read_only_hint is True
        result = await client.call_tool(way.name("echo"), {"message": "hello, wörld \u2028"})
    assert _texts(result) == ["hello, wörld \u2028"]


async def test_meta_of_request_and_result_survive(way: Way) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with way.client() as client:
        sent = {"traceparent": trace, "com.example/deep": {"list": [1, 2.5, None]}}
        result = await client.call_tool(way.name("meta"), {}, meta=sent)  # type: ignore[arg-type] # any key is allowed
    arrived = json.loads(_texts(result)[0])
    assert {key: arrived.get(key) for key in sent} == sent
    assert result.meta is not None
    assert result.meta["com.example/answer"] == {"deep": [1, None]}


async def test_error_of_the_upstream_comes_unchanged(way: Way) -> None:
    async with way.client() as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(way.name("fail"), {})
    assert caught.value.code == -32050
    assert caught.value.message == "refused by the upstream"
    assert caught.value.error.data == {"hint": ["try", "later"]}


async def test_resources(way: Way) -> None:
    async with way.client() as client:
        listed = await client.list_resources(cache_mode="bypass")
        assert {way.uri("note://static"), way.uri("note://watched")} <= {resource.uri for resource in listed.resources}
        templates = await client.list_resource_templates(cache_mode="bypass")
        template = way.uri("note://named/{name}")
        assert template in {found.uri_template for found in templates.resource_templates}
        for own, content in {"note://static": "static", "note://named/ada": "ada"}.items():
            read = await client.read_resource(way.uri(own))
            assert [(part.uri, part.model_dump()["text"]) for part in read.contents] == [(way.uri(own), content)]


async def test_unknown_resource_is_a_parameter_error(way: Way) -> None:
    async with way.client() as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(way.uri("note://nothing"))
    # The older revisions have a code of their own for it, which their servers may use.
    assert caught.value.code in ({-32602, -32002} if way.mode == "legacy" else {-32602})


async def test_links_in_results_can_be_read(way: Way) -> None:
    async with way.client() as client:
        result = await client.call_tool(way.name("link"), {})
        link, embedded = (block.model_dump(mode="json", by_alias=True) for block in result.content)
        assert link["uri"] == way.uri("note://static")
        assert embedded["resource"]["uri"] == way.uri("note://watched")
        read = await client.read_resource(link["uri"])
    assert read.contents[0].model_dump()["text"] == "static"


async def test_prompts(way: Way) -> None:
    async with way.client() as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts(cache_mode="bypass")).prompts}
        arguments = prompts[way.name("greet")].arguments or []
        assert [argument.name for argument in arguments] == ["name"]
        got = await client.get_prompt(way.name("greet"), {"name": "Ada"})
    greeting, note = (message.content.model_dump(mode="json", by_alias=True) for message in got.messages)
    assert greeting["text"] == "Greet Ada."
    assert note["resource"]["uri"] == way.uri("note://static")


async def test_completion_of_prompt_and_resource(way: Way) -> None:
    async with way.client() as client:
        prompt = PromptReference(name=way.name("greet"))
        completed = await client.complete(prompt, {"name": "name", "value": "a"})
        assert completed.completion.values == ["ada", "alan"]
        template = ResourceTemplateReference(uri=way.uri("note://named/{name}"))
        completed = await client.complete(template, {"name": "name", "value": "a"})
    assert completed.completion.values == ["apple", "avocado"]


async def test_progress_and_logging(way: Way) -> None:
    respondent = Respondent()
    async with way.client(respondent) as client:
        if way.mode == "legacy":
            await client.set_logging_level("info")
        result = await client.call_tool(way.name("count"), {}, progress_callback=respondent.on_progress)
    assert _texts(result) == ["counted"]
    assert respondent.progress == [(number, 3, f"step {number}") for number in (1, 2, 3)]
    assert respondent.logged == [{"step": number} for number in (1, 2, 3)]


async def test_streams_at_once_are_told_apart(way: Way) -> None:
    """Each answer of several at once is a stream of its own, with its own progress on it."""
    respondents = [Respondent() for _ in range(3)]
    async with way.client() as client:
        calls = [
            client.call_tool(way.name("count"), {}, progress_callback=respondent.on_progress)
            for respondent in respondents
        ]
        results = await asyncio.gather(*calls)
    assert [_texts(result) for result in results] == [["counted"]] * 3
    for respondent in respondents:
        assert respondent.progress == [(number, 3, f"step {number}") for number in (1, 2, 3)]


@pytest.mark.parametrize("way", [case for case in _ways() if case[1] != "legacy"], ids=_way_id, indirect=True)
async def test_no_log_reaches_a_modern_client_that_did_not_ask(way: Way) -> None:
    """The older revisions leave the default to the server."""
    respondent = Respondent()
    options: dict[str, Any] = {**respondent.options, "log_level": None}
    connecting = way.upstream.connect(**options) if way.gateway is None else way.gateway.mcp(way.mode, **options)
    async with connecting as client:
        await client.call_tool(way.name("count"), {})
    assert respondent.logged == []


async def test_user_is_asked(way: Way) -> None:
    respondent = Respondent()
    async with way.client(respondent) as client:
        result = await client.call_tool(way.name("ask_user"), {})
    assert respondent.asked == ["What is your name?"]
    # A modern upstream hands its state to the client; that of an older one stays in its call.
    state = "None" if way.upstream.era == "legacy" else "asked"
    assert _texts(result) == [f"accept: Ada 1; state {state}"]


async def test_user_is_asked_in_rounds(way: Way) -> None:
    respondent = Respondent()
    async with way.client(respondent) as client:
        result = await client.call_tool(way.name("ask_twice"), {})
    assert respondent.asked == ["The first name?", "The second name?"]
    assert _texts(result) == ["Ada 1 and Ada 2"]


async def test_model_is_asked(way: Way) -> None:
    respondent = Respondent()
    async with way.client(respondent) as client:
        result = await client.call_tool(way.name("ask_model"), {})
    assert respondent.asked == ["The capital of France?"]
    assert _texts(result) == ["Paris"]


async def test_roots_are_asked_for(way: Way) -> None:
    respondent = Respondent()
    async with way.client(respondent) as client:
        result = await client.call_tool(way.name("ask_roots"), {})
    assert respondent.asked == ["roots"]
    assert _texts(result) == ["file:///a", "file:///b"]


async def test_client_that_cannot_be_asked_is_a_clear_error(way: Way) -> None:
    async with way.client() as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(way.name("ask_user"), {})
        assert "elicitation" in caught.value.message.lower()
        # The conversation goes on.
        result = await client.call_tool(way.name("echo"), {"message": "still here"})
    assert _texts(result) == ["still here"]


def test_each_upstream_was_asked_in_its_own_era(gateway: Gateway, upstreams: dict[str, EraUpstream]) -> None:
    """Last but one in the module, so that it covers everything above."""
    for upstream in upstreams.values():
        revisions = {event["revision"] for event in upstream.events("tools/call")}
        assert revisions == {"2025-11-25" if upstream.era == "legacy" else "2026-07-28"}, upstream.name
    assert gateway.process.poll() is None


def test_the_log_holds_no_traceback(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
