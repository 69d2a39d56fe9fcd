"""A call that lacks a connection, until it has one: the real clients of both eras, the whole application."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult

from agentapi.principal import Role
from integration.api.conftest import api, gateway, http, issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.oauth.connecting import Asked, Connecting, connecting, path_of
from support.clients import list_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

    from integration.api.harness import Api
    from support.clients import Mode

TOOL = "tracker__echo"
UPSTREAMS = pytest.mark.parametrize("place", [False, True], ids=["modern upstream", "legacy upstream"], indirect=True)


@pytest.fixture
async def place(
    request: pytest.FixtureRequest,
    gateway: Starlette,  # noqa: F811
    api: Api,  # noqa: F811
) -> AsyncIterator[Connecting]:
    async with connecting(gateway, api, legacy=getattr(request, "param", False)) as made:
        yield made


def said(result: Any) -> str:
    assert not result.is_error, result
    return str(result.content[0].text)


async def refusal(place: Connecting, mode: Mode, **options: Any) -> MCPError:
    async with place.client(mode, **options) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(TOOL, {})
    return caught.value


@UPSTREAMS
async def test_a_modern_client_is_sent_to_connect_and_its_call_goes_on(place: Connecting) -> None:
    asked = Asked(place)
    async with place.client("2026-07-28", elicitation_callback=asked) as client:
        first = said(await client.call_tool(TOOL, {}))
        second = said(await client.call_tool(TOOL, {}))
    assert first.startswith("Bearer access-")
    assert first.partition(" on ")[0] == second.partition(" on ")[0]
    assert len(asked.urls) == 1
    assert "tracker" in asked.messages[0]


async def test_a_client_that_says_yes_before_its_user_is_done_waits(place: Connecting) -> None:
    opened: asyncio.Queue[str] = asyncio.Queue()

    async def at_once(_: Any, params: Any) -> ElicitResult:
        opened.put_nowait(params.url)
        return ElicitResult(action="accept")

    async def person() -> None:
        await place.connect(await opened.get())

    async with place.client("2026-07-28", elicitation_callback=at_once) as client:
        answer, _ = await asyncio.gather(client.call_tool(TOOL, {}), person())
    assert said(answer).startswith("Bearer access-")
    assert opened.empty()


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_user_who_says_no_is_told_what_that_means(
    place: Connecting, action: Literal["decline", "cancel"]
) -> None:
    asked = Asked(place, action=action)
    error = await refusal(place, "2026-07-28", elicitation_callback=asked)
    assert "declined" in error.error.message
    assert error.error.data == {"code": "connection_declined"}
    assert len(asked.urls) == 1


async def test_a_session_that_opens_urls_gets_the_error_of_its_revision(place: Connecting) -> None:
    asked = Asked(place)
    async with place.client("legacy", elicitation_callback=asked) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool(TOOL, {})
        assert caught.value.error.code == -32042
        (elicitation,) = caught.value.error.data["elicitations"]
        assert elicitation["mode"] == "url"
        assert elicitation["elicitationId"]
        await place.connect(elicitation["url"])
        assert said(await client.call_tool(TOOL, {})).startswith("Bearer access-")
    assert asked.urls == []


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_a_client_that_opens_nothing_is_told_the_address(place: Connecting, mode: Mode) -> None:
    error = await refusal(place, mode)
    assert error.error.data["code"] == "connection_required"
    assert error.error.data["url"] in error.error.message
    path_of(error.error.data["url"])
    await place.connect(error.error.data["url"])
    async with place.client(mode) as client:
        assert said(await client.call_tool(TOOL, {})).startswith("Bearer access-")


async def test_the_address_says_nothing_of_who_asked_for_what(place: Connecting) -> None:
    error = await refusal(place, "2026-07-28")
    url = error.error.data["url"]
    assert re.fullmatch(r"http://gateway\.example/connect/[A-Za-z0-9_-]+", url)
    assert "mia" not in url


async def test_two_users_of_one_url_each_come_as_themselves(place: Connecting) -> None:
    tokens = {}
    for subject in ("mia", "noah"):
        error = await refusal(place, "2026-07-28", subject=subject)
        await place.connect(error.error.data["url"], subject)
        async with place.client("2026-07-28", subject) as client:
            tokens[subject] = said(await client.call_tool(TOOL, {}))
    assert tokens["mia"].partition(" on ")[0] != tokens["noah"].partition(" on ")[0]


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
@UPSTREAMS
async def test_a_refused_token_is_refreshed_once_and_the_call_answered(place: Connecting, mode: Mode) -> None:
    await _connected(place)
    async with place.client(mode) as client:
        old = said(await client.call_tool(TOOL, {})).partition(" on ")[0]
        place.site.upstream.refuses[old] = 'Bearer error="invalid_token"'
        new = said(await client.call_tool(TOOL, {})).partition(" on ")[0]
    assert old != new
    assert place.site.refreshes == 1


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_an_upstream_that_refuses_everything_ends_in_one_refresh(place: Connecting, mode: Mode) -> None:
    await _connected(place)
    async with place.client(mode) as client:
        await client.call_tool(TOOL, {})
        place.site.upstream.refuses["*"] = "Bearer"
        before = len(place.site.upstream.seen)
        told = []
        for _ in range(3):
            with pytest.raises(MCPError) as caught:
                await client.call_tool(TOOL, {})
            told.append(caught.value.error.data)
        assert {data["code"] for data in told} == {"reconnect_needed"}
    # The call with the old token and with the new one; what follows ends at the gateway.
    assert len([each for each in place.site.upstream.seen[before:] if each.method == "tools/call"]) <= 2
    assert len(place.site.upstream.seen) - before <= 4
    assert place.site.refreshes == 1
    place.site.upstream.refuses.clear()
    await place.connect(told[-1]["url"])
    async with place.client(mode) as client:
        assert said(await client.call_tool(TOOL, {})).startswith("Bearer access-")


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_missing_scopes_are_asked_for_besides_those_that_are_held(place: Connecting, mode: Mode) -> None:
    await _connected(place)
    place.site.upstream.refuses["*"] = 'Bearer error="insufficient_scope", scope="write"'
    error = await refusal(place, mode)
    assert error.error.data["scopes"] == ["write"]
    assert place.site.refreshes == 0
    place.site.grants = "read write"
    there = await place.connect(error.error.data["url"])
    assert {"read", "write"} <= set(parse_qs(urlsplit(there).query)["scope"][0].split())
    # An upstream that still refuses has its user sent round no further.
    error = await refusal(place, mode)
    assert "url" not in error.error.data
    assert "names no scope that it lacks" in error.error.message


async def test_an_upstream_that_never_has_enough_scopes_is_asked_once_for_each_call(place: Connecting) -> None:
    await _connected(place)
    async with place.client("2026-07-28") as client:
        await client.call_tool(TOOL, {})
    place.site.upstream.refuses["*"] = 'Bearer error="insufficient_scope", scope="write"'
    before = len(place.site.upstream.calls)
    for _ in range(3):
        await refusal(place, "2026-07-28")
    assert len(place.site.upstream.calls) - before == 3
    assert place.site.refreshes == 0


async def test_a_revoked_connection_is_used_no_more(place: Connecting) -> None:
    await _connected(place)
    async with place.client("2026-07-28") as client:
        await client.call_tool(TOOL, {})
        upstream = (await place.api.caller().page()).json()["items"][0]["id"]
        member = place.api.caller(Role.MEMBER, "mia")
        answer = await member.request("POST", "/api/v1/mcp/oauth/revoke", json={"upstream": upstream})
        assert answer.status_code == 200
        calls = len(place.site.upstream.calls)
        with pytest.raises(MCPError) as caught:
            await client.call_tool(TOOL, {})
    assert caught.value.error.data["code"] == "connection_required"
    assert len(place.site.upstream.calls) == calls


async def _connected(place: Connecting) -> None:
    error = await refusal(place, "2026-07-28")
    await place.connect(error.error.data["url"])


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_what_there_is_to_connect_to_is_listed_until_it_is_connected(place: Connecting, mode: Mode) -> None:
    async with place.client(mode) as client:
        (tool,) = await list_tools(client)
        assert tool.name == "tracker__connect_account"
        with pytest.raises(MCPError) as caught:
            await client.call_tool(tool.name, {})
        await place.connect(caught.value.error.data["url"])
        assert {each.name for each in await list_tools(client)} == {"tracker__echo", "tracker__write"}
        assert "is connected to tracker" in said(await client.call_tool(tool.name, {}))
    assert place.site.upstream.calls == []


async def test_a_modern_client_connects_by_the_tool_that_stands_for_the_others(place: Connecting) -> None:
    async with place.client("2026-07-28", elicitation_callback=Asked(place)) as client:
        (tool,) = await list_tools(client)
        assert "is connected to tracker" in said(await client.call_tool(tool.name, {}))
        assert len(await list_tools(client)) == 2
