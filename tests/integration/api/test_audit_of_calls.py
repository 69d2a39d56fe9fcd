"""What the audit log holds of requests to the MCP endpoint, on both ways through the gateway."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from agentapi.audit.models import DEPLOYMENT
from agentapi.gateway.relay import ByteRelay
from agentapi.principal import Role
from integration.api.harness import served
from integration.audit.logs import rows_of
from support.raw import modern_headers, modern_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.audit.models import AuditRow
    from agentapi.storage.database import Database
    from integration.api.harness import Api, Caller

HANGING = asyncio.Event()


@pytest.fixture(scope="module")
async def upstream_url() -> AsyncIterator[str]:
    server = MCPServer("audited", subscriptions=False)

    @server.tool(structured_output=False)
    def echo(message: str) -> str:
        return message

    @server.tool()
    def fail() -> str:
        raise ToolError("no")

    @server.tool()
    def refuse() -> str:
        raise MCPError(code=-32099, message="no")

    @server.tool()
    async def hang() -> str:
        HANGING.set()
        await asyncio.Event().wait()
        return "late"

    @server.prompt()
    def greet() -> str:
        return "Hello."

    @server.resource("test://static")
    def static() -> str:
        return "static"

    async with served(server.streamable_http_app(stateless_http=True, host="127.0.0.1"), lifespan=True) as url:
        yield f"{url}/mcp"


async def ask(caller: Caller, path: str, method: str, params: dict[str, Any]) -> Any:
    message = modern_message(method, params)
    return await caller.request(
        "POST", path, json=message, headers={**modern_headers(message), "user-agent": "probe/1"}
    )


async def settled(database: Database, api: Api, count: int) -> list[AuditRow]:
    """Return the rows once there are as many: those that nobody waits for come a moment later."""
    async with asyncio.timeout(10):
        while len(rows := await rows_of(database, api.tenant.principal.org_id)) < count:  # noqa: ASYNC110 - no row tells of itself
            await asyncio.sleep(0.05)
    return sorted(rows, key=lambda row: (row.recorded_at_us, row.sequence))


@pytest.mark.parametrize("relayed", [True, False])
async def test_each_call_has_one_row_that_says_how_it_ended(
    api: Api, database: Database, upstream_url: str, relayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not relayed:
        monkeypatch.setattr(ByteRelay, "serves", lambda *_: False)
    admin, member, viewer = api.caller(), api.caller(Role.MEMBER, "bob"), api.caller(Role.VIEWER, "eve")
    upstream = await admin.created(name="one", endpoint=upstream_url)
    path = f"/mcp/{api.tenant.principal.org_slug}/main"
    await ask(member, path, "tools/list", {})
    expected = []
    for caller, method, params, outcome, code in (
        (member, "tools/call", {"name": "one__echo", "arguments": {"message": '"error": 1'}}, "success", None),
        (member, "tools/call", {"name": "one__fail", "arguments": {}}, "failure", None),
        (member, "tools/call", {"name": "one__refuse", "arguments": {}}, "failure", "-32099"),
        (member, "tools/call", {"name": "one__nothing", "arguments": {}}, "failure", "unknown_tool"),
        (viewer, "tools/call", {"name": "one__echo", "arguments": {}}, "denied", "forbidden"),
        (member, "resources/read", {"uri": "mcp+one+test://static"}, "success", None),
        (member, "prompts/get", {"name": "one__greet"}, "success", None),
    ):
        answer = await ask(caller, path, method, params)
        expected.append((method.replace("/", "."), outcome, code, answer.headers["x-request-id"]))
    rows = [row for row in await settled(database, api, len(expected)) if row.action != "upstream.created"]
    found = [(row.action, row.outcome, json.loads(row.details).get("code"), row.request_id) for row in rows]
    assert found == expected
    first, missing = rows[0], rows[3]
    assert (first.resource, first.agent, first.address) == (f"upstream:{upstream['id']}", "probe/1", "127.0.0.1")
    details = json.loads(first.details)
    assert details.pop("duration_ms") >= 0
    assert details == {"name": "echo", "upstream": "one", "workspace": "main"}
    assert (missing.resource, json.loads(missing.details)["name"]) == ("", "one__nothing")


async def test_a_call_that_its_client_gives_up_is_cancelled(api: Api, database: Database, upstream_url: str) -> None:
    await api.caller().created(name="one", endpoint=upstream_url)
    path = f"/mcp/{api.tenant.principal.org_slug}/main"
    member = api.caller(Role.MEMBER, "bob")
    await ask(member, path, "tools/list", {})
    before = len(await rows_of(database, api.tenant.principal.org_id))
    task = asyncio.ensure_future(ask(member, path, "tools/call", {"name": "one__hang", "arguments": {}}))
    await asyncio.wait_for(HANGING.wait(), 10)
    task.cancel()
    await asyncio.wait([task])
    rows = await settled(database, api, before + 1)
    assert (rows[-1].action, rows[-1].outcome) == ("tools.call", "cancelled")


async def test_refused_credentials_are_noted_where_they_belong(api: Api, database: Database) -> None:
    path = f"/mcp/{api.tenant.principal.org_slug}/main"
    before = len(await rows_of(database, DEPLOYMENT))
    stranger = api.caller()
    object.__setattr__(stranger, "token", "made.up.token")
    assert (await ask(stranger, path, "tools/list", {})).status_code == 401
    assert (await ask(api.caller(), "/mcp/another/main", "tools/list", {})).status_code == 404
    (row,) = await settled(database, api, 1)
    assert (row.action, row.outcome, json.loads(row.details)["code"]) == (
        "auth.refused",
        "denied",
        "foreign_organization",
    )
    assert row.actor_id is not None
    rows = await rows_of(database, DEPLOYMENT)
    assert len(rows) == before + 1
    newest = max(rows, key=lambda row: row.recorded_at_us)
    assert (newest.actor_id, json.loads(newest.details)["code"]) == (None, "unauthenticated")
