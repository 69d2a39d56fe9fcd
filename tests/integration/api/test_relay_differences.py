"""The same calls down the relay and down the session path: what a client gets must not tell which it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, EmbeddedResource, ResourceLink, TextContent, TextResourceContents

from agentapi.gateway.relay import ByteRelay
from agentapi.principal import Role
from integration.api.harness import served
from support.raw import modern_headers, modern_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from integration.api.harness import Api, Caller

CALLS = 300
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
TEXT = st.text(max_size=40) | st.sampled_from(["", "\u2028", "\U0001f600", '"uri"', '"error"', "\\u0075", "a\r\nb"])
BIG = st.integers(1, 3).map(lambda number: "x\u00e4" * 100_000 * number)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def upstream_server() -> MCPServer:  # noqa: C901 - a list of tools, one after another
    """A server of both eras whose answers depend on the request alone."""
    server = MCPServer("everything", subscriptions=False)

    @server.tool(structured_output=False)
    def echo(message: str) -> str:
        """Say it back."""
        return message

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add, with structured output."""
        return a + b

    @server.tool(structured_output=False)
    def picture(text: str) -> CallToolResult:
        """Return links and resources, with metadata."""
        return CallToolResult(
            content=[
                TextContent(text=text, _meta={"com.example/part": 1}),
                ResourceLink(uri="test://link", name="link"),
                EmbeddedResource(resource=TextResourceContents(uri="test://note", text=text)),
            ],
            _meta={"com.example/trace": [text, None, 1.5]},
        )

    @server.tool()
    def fail(reason: str) -> str:
        """Fail as a tool does."""
        raise ToolError(reason)

    @server.tool()
    def refuse(code: int, reason: str) -> str:
        """Fail as the protocol does."""
        raise MCPError(code=code, message=reason, data={"hint": [reason, None]})

    @server.tool(structured_output=False)
    async def report(ctx: Context, steps: int) -> str:
        """Report progress and log."""
        for step in range(steps):
            await ctx.report_progress(step, steps, f"step {step}")
            await ctx.info(f"at {step}")
        return "done"

    @server.tool(structured_output=False)
    def request_meta(ctx: Context) -> str:
        """Return the _meta of the request, but for the token of its progress: on a shared connection it is another."""
        meta = {key: value for key, value in (ctx.request_context.meta or {}).items() if key != "progress_token"}
        return json.dumps(meta, default=str, sort_keys=True)

    @server.prompt()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Greet {name}."

    @server.resource("test://static")
    def static() -> str:
        return "static"

    @server.resource("test://{name}/data")
    def templated(name: str) -> str:
        return f"data of {name}"

    return server


def tool(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    given_arguments = st.fixed_dictionaries(dict(arguments))
    return given_arguments.map(lambda drawn: ("tools/call", {"name": f"one__{name}", "arguments": drawn}))


def read(uri: str) -> tuple[str, dict[str, Any]]:
    return "resources/read", {"uri": uri}


CODES = [
    -32600,
    -32601,
    -32602,
    -32603,
    -32700,
    -32000,
    -32002,
    -32020,
    -32021,
    -32022,
    -32042,
    -32099,
    -32800,
    7,
    2**60,
]
LONG = st.integers(1000, 5000).map(lambda number: "\u00e4" * number)
CASES = st.one_of(
    tool("echo", message=TEXT | BIG),
    tool("echo", message=JSON),
    tool("echo"),
    tool("echo", message=TEXT, more=JSON),
    tool("add", a=st.integers(), b=st.integers() | JSON),
    tool("picture", text=TEXT),
    tool("fail", reason=TEXT),
    tool("refuse", code=st.sampled_from(CODES), reason=TEXT | LONG),
    tool("report", steps=st.integers(0, 4)),
    tool("request_meta"),
    TEXT.map(lambda name: ("tools/call", {"name": f"one__{name}", "arguments": {}})),
    TEXT.map(lambda name: ("prompts/get", {"name": "one__greet", "arguments": {"name": name}})),
    st.sampled_from([("prompts/get", {"name": "one__greet"}), ("prompts/get", {"name": "one__nobody"})]),
    st.sampled_from(["mcp+one+test://static", "mcp+one+test://a/data", "mcp+one+none://", "test://static"]).map(read),
    st.just(("tools/call", {"name": "one__echo", "arguments": {"message": "x"}, "requestState": "forged"})),
)
METAS = st.fixed_dictionaries(
    {},
    optional={
        "progressToken": st.integers(0, 9) | st.sampled_from(["p", "\u00e4"]),
        LOG_LEVEL: st.sampled_from(["debug", "info", "error"]),
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "com.example/own": JSON,
        "io.modelcontextprotocol/invented": JSON,
    },
)
IDENTIFIERS = st.integers(0, 2**53) | st.sampled_from(["one", "\u00e4", ""])


@pytest.fixture
async def caller(api: Api) -> AsyncIterator[Caller]:
    """Somebody in an organisation with two upstreams, so that names and addresses are rewritten."""
    app = upstream_server().streamable_http_app()
    async with served(app, lifespan=True) as address:
        admin = api.caller(Role.ORG_ADMIN)
        await admin.created(name="one", endpoint=f"{address}/mcp")
        await admin.created(name="two", endpoint=f"{address}/mcp")
        yield admin


async def ask(caller: Caller, path: str, case: tuple[str, dict[str, Any]], identifier: object, meta: object) -> Any:
    method, params = case
    message = modern_message(method, params, identifier=identifier)
    assert isinstance(meta, dict)
    message["params"]["_meta"] |= meta
    headers = {"accept": "application/json, text/event-stream", **modern_headers(message)}
    name = headers["mcp-name"]
    if not (name.isascii() and name.isprintable() and name == name.strip()) or name.startswith("=?"):
        from mcp.shared.inbound import encode_header_value

        headers["mcp-name"] = encode_header_value(name)
    answer = await caller.request("POST", path, json=message, headers=headers)
    kind = answer.headers["content-type"]
    if kind == "text/event-stream":
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
        return answer.status_code, kind, [json.loads(line) for line in lines]
    return answer.status_code, kind, answer.json()


async def test_the_relay_answers_as_the_session_path_does(
    api: Api, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[tuple[str, dict[str, Any]], Any, Any]] = []

    @settings(
        max_examples=CALLS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(CASES, IDENTIFIERS, METAS)
    def collect(case: tuple[str, dict[str, Any]], identifier: object, meta: object) -> None:
        cases.append((case, identifier, meta))

    collect()
    path = f"/mcp/{api.tenant.principal.org_slug}/main"
    # The first call learns the era of the upstream.
    await ask(caller, path, ("tools/call", {"name": "one__echo", "arguments": {"message": "x"}}), 1, {})
    relayed, forward, serves = 0, ByteRelay.forward, ByteRelay.serves

    async def counted(*arguments: Any) -> None:
        nonlocal relayed
        relayed += 1
        await forward(*arguments)

    monkeypatch.setattr(ByteRelay, "forward", counted)
    for case, identifier, meta in cases:
        monkeypatch.setattr(ByteRelay, "serves", serves)
        by_relay = await ask(caller, path, case, identifier, meta)
        before = relayed
        monkeypatch.setattr(ByteRelay, "serves", lambda *_: False)
        by_session = await ask(caller, path, case, identifier, meta)
        assert relayed == before
        assert by_relay == by_session, (case, identifier, meta)
        message = by_relay[2][-1] if isinstance(by_relay[2], list) else by_relay[2]
        if "result" in message:
            # The upstream produced it, whichever way it came.
            assert message["result"]["_meta"][SERVER_INFO]["name"] == "everything"
    assert len(cases) >= CALLS
    assert relayed > CALLS // 2
