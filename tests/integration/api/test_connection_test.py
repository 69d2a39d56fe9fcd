"""``POST /api/v1/mcp/test``: what is there, or why not in words."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.principal import Role
from integration.api.harness import Api, configuration, served
from integration.api.servers import Seen, mcp_app, other_app, sse_app
from support.tasks import tasks_by_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PATIENCE_S = 4.0
"""Twice the connect timeout of the gateway in conftest.py."""


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen()


@pytest.fixture(scope="module")
async def mcp_url(seen: Seen) -> AsyncIterator[str]:
    async with served(mcp_app(seen), lifespan=True) as url:
        yield f"{url}/mcp"


@pytest.fixture(scope="module")
async def other_url() -> AsyncIterator[str]:
    async with served(other_app()) as url:
        yield url


@pytest.fixture
def dead_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/mcp"


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


async def outcome(api: Api, **given: Any) -> dict[str, Any]:
    answer = await api.caller().test(configuration=configuration(**given))
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def assert_inventory(result: dict[str, Any]) -> None:
    assert result["ok"], result["reason"]
    assert result["reason"] is None
    assert result["server"]["name"] == "sdk-test"
    assert result["server"]["version"] == "4.5.6"
    assert result["instructions"] == "Be kind."
    assert sorted(result["tools"]) == ["add", "echo"]
    assert result["resources"] == ["test://static"]
    assert result["resource_templates"] == ["test://item/{id}"]
    assert result["prompts"] == ["greet"]
    assert result["connect_ms"] > 0
    assert result["list_ms"] > 0
    assert result["total_ms"] == pytest.approx(result["connect_ms"] + result["list_ms"], abs=0.01)


async def test_a_good_server_is_described(api: Api, mcp_url: str) -> None:
    result = await outcome(api, endpoint=mcp_url)
    assert_inventory(result)
    assert result["protocol_version"] == "2026-07-28"


async def test_a_server_is_tested_in_the_era_that_is_pinned(api: Api, mcp_url: str) -> None:
    result = await outcome(api, endpoint=mcp_url, protocol="legacy")
    assert_inventory(result)
    assert result["protocol_version"] == "2025-11-25"


async def test_a_server_over_sse_is_described(api: Api) -> None:
    async with served(sse_app(), lifespan=True) as url:
        result = await outcome(api, transport="sse", endpoint=f"{url}/sse")
    assert_inventory(result)


async def test_an_allowed_command_is_described_and_ends(api: Api, state_dir: Path) -> None:
    result = await outcome(api, transport="stdio", endpoint=..., command="clock")
    assert result["ok"], result["reason"]
    assert result["tools"] == ["current_time", "convert_time"]
    assert result["server"]["name"] == "clock"
    assert list((state_dir / "stdio").iterdir()) == []


async def test_a_stored_configuration_is_tested_by_its_id(api: Api, mcp_url: str) -> None:
    created = await api.caller().created(endpoint=mcp_url, enabled=False)
    assert_inventory((await api.caller().test(id=created["id"])).json())


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"auth": "bearer", "secret": "s3cret"}, ("authorization", "Bearer s3cret")),
        ({"auth": "api_key", "secret": "s3cret"}, ("x-api-key", "s3cret")),
        ({"auth": "api_key", "auth_header": "X-Other", "secret": "s3cret"}, ("x-other", "s3cret")),
        ({"auth": "api_key", "auth_header": "Authorization", "secret": "Token x"}, ("authorization", "Token x")),
    ],
)
async def test_the_credential_is_attached_and_the_callers_token_is_not(
    api: Api, mcp_url: str, seen: Seen, given: dict[str, Any], sent: tuple[str, str]
) -> None:
    stored = await api.caller().created(endpoint=mcp_url, **given)
    caller = api.caller()
    for body in ({"configuration": configuration(endpoint=mcp_url, **given)}, {"id": stored["id"]}):
        seen.headers.clear()
        assert (await caller.test(**body)).json()["ok"]
        assert seen.headers
        assert all(sent in headers.items() for headers in seen.headers)
        assert caller.token not in repr(seen.headers)


async def test_a_server_without_auth_is_sent_no_credential(api: Api, mcp_url: str, seen: Seen) -> None:
    seen.headers.clear()
    await outcome(api, endpoint=mcp_url)
    assert seen.headers
    assert not any({"authorization", "x-api-key", "cookie"} & set(headers) for headers in seen.headers)


def assert_reason(result: dict[str, Any], words: str) -> None:
    """The reason is one sentence, and tells nobody where the gateway stands or what it saw inside."""
    assert not result["ok"]
    reason = result["reason"]
    assert words in reason, reason
    assert reason[0].isupper()
    assert reason.endswith(".")
    for inside in ("127.0.0.1", "10.1.2.3", "169.254", "Errno", "Traceback", "exceptiongroup", "http://"):
        assert inside.lower() not in reason.lower()
    assert (result["tools"], result["server"], result["connect_ms"]) == ([], None, None)
    assert result["total_ms"] > 0


async def test_a_dead_port_is_said_to_refuse(api: Api, dead_url: str) -> None:
    for transport in ("http", "sse"):
        assert_reason(await outcome(api, endpoint=dead_url, transport=transport), "refused")


ANSWERS: dict[str, tuple[str, str]] = {
    "401": ("/unauthorized", "it wants a credential"),
    "403": ("/status/403", "the credential may not use it"),
    "404": ("/missing", "the endpoint path is probably wrong"),
    "405": ("/status/405", "probably not an MCP endpoint"),
    "418": ("/status/418", "HTTP 418"),
    "429": ("/status/429", "limiting requests"),
    "500": ("/status/500", "HTTP 500"),
    "503": ("/status/503", "HTTP 503"),
    "a redirect to the metadata service": ("/redirect", "redirect"),
}


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(("path", "words"), ANSWERS.values(), ids=ANSWERS)
async def test_a_server_that_is_none_is_named_for_what_it_does(
    api: Api, other_url: str, transport: str, path: str, words: str
) -> None:
    result = await outcome(api, endpoint=f"{other_url}{path}", transport=transport)
    assert_reason(result, words)


@pytest.mark.parametrize(("transport", "words"), [("http", "not JSON"), ("sse", "does not speak MCP over SSE")])
async def test_a_web_page_is_no_server(api: Api, other_url: str, transport: str, words: str) -> None:
    assert_reason(await outcome(api, endpoint=f"{other_url}/page", transport=transport), words)


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_server_that_hangs_is_given_up_on_in_time(api: Api, other_url: str, transport: str) -> None:
    started = time.monotonic()
    result = await outcome(api, endpoint=f"{other_url}/hang", transport=transport)
    assert_reason(result, "did not answer in time: no complete answer within 4 s")
    assert time.monotonic() - started < PATIENCE_S + 3


async def test_a_server_that_never_answers_is_given_up_on_in_time(api: Api, silent_url: str) -> None:
    started = time.monotonic()
    assert_reason(await outcome(api, endpoint=silent_url), "did not answer in time: no complete answer within 4 s")
    assert time.monotonic() - started < PATIENCE_S + 3


async def test_a_command_that_cannot_be_started_is_said_so(api: Api, state_dir: Path) -> None:
    result = await outcome(api, transport="stdio", endpoint=..., command="broken")
    assert_reason(result, "")
    assert "/nonexistent" not in result["reason"]
    assert list((state_dir / "stdio").iterdir()) == []


async def test_a_host_that_does_not_resolve_is_said_so(api: Api) -> None:
    result = await outcome(api, endpoint="http://upstream.invalid/mcp")
    assert not result["ok"]
    assert result["reason"]


async def test_an_oauth_upstream_says_what_is_missing(api: Api, mcp_url: str) -> None:
    assert_reason(await outcome(api, endpoint=mcp_url, auth="oauth"), "OAuth connection")


async def test_an_upstream_of_users_own_credentials_says_how_to_give_one(api: Api, mcp_url: str) -> None:
    form = {
        "fields": [{"name": "token", "label": "Token"}],
        "placements": [{"place": "header", "name": "Authorization", "value": "Bearer {token}"}],
    }
    for name, given, way in (
        ("by-oauth", {"auth": "oauth"}, "POST /api/v1/mcp/oauth/init"),
        ("by-form", {"auth": "user", "credential_form": form}, "PUT /api/v1/mcp/credentials/{id}"),
    ):
        assert_reason(await outcome(api, endpoint=mcp_url, **given), "Register the upstream and connect")
        stored = await api.caller().created(name=name, endpoint=mcp_url, **given)
        answer = await api.caller().test(id=stored["id"])
        assert_reason(answer.json(), way.format(id=stored["id"]))


async def test_a_stored_address_that_is_no_longer_allowed_is_not_called(
    api: Api, strict_api: Api, mcp_url: str, seen: Seen
) -> None:
    created = await api.caller().created(endpoint=mcp_url)
    strict = Api(strict_api.http, api.issuer, api.tenant)
    seen.headers.clear()
    result = (await strict.caller().test(id=created["id"])).json()
    assert not result["ok"]
    assert "127.0.0.1" not in result["reason"]
    assert seen.headers == []


async def test_tests_leave_no_task_behind(api: Api, mcp_url: str, dead_url: str) -> None:
    await outcome(api, endpoint=mcp_url)
    before = tasks_by_kind()
    for endpoint in (mcp_url, dead_url):
        for _ in range(5):
            await outcome(api, endpoint=endpoint)
    for _ in range(50):
        await asyncio.sleep(0)
    # What runs besides, as the queue of jobs, changes its tasks, but not by as many.
    assert max((tasks_by_kind() - before).values(), default=0) < 5


async def test_a_viewer_may_not_make_the_gateway_connect(api: Api, mcp_url: str, seen: Seen) -> None:
    seen.headers.clear()
    viewer = api.caller(Role.VIEWER)
    answer = await viewer.test(configuration=configuration(endpoint=mcp_url, scope="user"))
    assert answer.status_code == 403
    assert seen.headers == []


async def test_an_upstream_that_fails_again_and_again_is_tested_later(api: Api, dead_url: str) -> None:
    caller = api.caller()
    stored = await caller.created(endpoint=dead_url)
    for _ in range(5):
        assert not (await caller.test(id=stored["id"])).json()["ok"]
    answer = await caller.test(id=stored["id"])
    assert (answer.status_code, answer.json()["code"]) == (503, "upstream_resting")
    assert 1 <= int(answer.headers["retry-after"]) <= 33
    # What is not stored yet is another one each time, and so is a stored one that was changed.
    assert not (await outcome(api, endpoint=dead_url))["ok"]
    changed = configuration(name=stored["name"], endpoint=dead_url, description="mended")
    assert (await caller.request("PUT", f"/api/v1/mcp/configurations/{stored['id']}", json=changed)).status_code == 200
    assert not (await caller.test(id=stored["id"])).json()["ok"]
