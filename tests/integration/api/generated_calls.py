"""What a client may send, made up, far beyond what it should."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from hypothesis import strategies as st

from agentapi.gateway.names import public_name, public_uri
from integration.api.generated_json import JSON, SOUND, SPELLINGS, TEXT, near, rarely, written

__all__ = ["CALLS", "LISTS", "Call"]

LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
LONG_NAME: Final = "a-tool-with-a-name-that-is-longer-than-what-any-client-is-shown"

LISTS: Final[dict[str, tuple[str, list[dict[str, Any]]]]] = {
    "tools/list": (
        "tools",
        [
            {"name": "echo", "inputSchema": {"type": "object"}},
            {"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
            {"name": LONG_NAME, "inputSchema": {"type": "object"}},
            {
                "name": "mirrored",
                "inputSchema": {
                    "type": "object",
                    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
                },
            },
        ],
    ),
    "prompts/list": ("prompts", [{"name": "greet"}, {"name": "grüß"}]),
    "resources/list": ("resources", [{"uri": "test://static", "name": "static"}]),
    "resources/templates/list": ("resourceTemplates", [{"uriTemplate": "test://{name}/data", "name": "data"}]),
}
"""What the upstream lists, by method."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a client."""

    method: str
    name: str
    body: bytes
    """Under the upstream's own name."""
    headers: tuple[tuple[str, str], ...]

    @property
    def public_name(self) -> str:
        """The name or URI that a client uses, where the upstream is called ``one`` and is not alone."""
        public = public_uri if self.method == "resources/read" else public_name
        return public("one", self.name)

    @property
    def public_body(self) -> bytes:
        """The body as the client sends it."""
        body = self.body
        for ascii_only in (True, False):
            own, public = (json.dumps(name, ensure_ascii=ascii_only).encode() for name in (self.name, self.public_name))
            if own in body:
                return body.replace(own, public, 1)
        raise AssertionError(body)

    def retried(self, state: str) -> Call:
        """Return the call with which a client answers the questions that it was asked."""
        message = json.loads(self.body)
        message["params"] |= {"requestState": state, "inputResponses": {"a": {"action": "accept", "content": {}}}}
        return replace(self, body=json.dumps(message).encode())


_CAPABILITIES = st.sampled_from(
    [{}, {"elicitation": {}}, {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}]
)
_METAS = st.fixed_dictionaries(
    {
        "io.modelcontextprotocol/protocolVersion": st.just("2026-07-28"),
        "io.modelcontextprotocol/clientCapabilities": _CAPABILITIES,
    },
    optional={
        "io.modelcontextprotocol/clientInfo": st.just({"name": "tests", "version": "1", "more": [1.5]}),
        "progressToken": st.integers(-9, 2**53)
        | st.sampled_from(["p", "ä", "", "1"])
        | rarely([None, 1.5, True, [1]], 1),
        LOG_LEVEL: st.sampled_from(["debug", "info", "error"]) | rarely(["loud", 3], "info"),
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "tracestate": st.just("vendor=1"),
        "com.example/own": JSON,
        "io.modelcontextprotocol/invented": JSON,
    },
)
_IDENTIFIERS = (
    st.integers(-(2**63), 2**63 - 1)
    | TEXT
    | st.sampled_from([0, 1, "1", "", "é" * 150, "x" * 1100, None, 1.5, True, [1], {"a": 1}, 2**63, -1])
)
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "tracestate": st.just("vendor=1"),
        "baggage": st.just("user=1"),
        "cookie": st.just("session=1"),
        "x-forwarded-for": st.just("192.0.2.1"),
        "mcp-param-region": st.sampled_from(["eu", "us", "=?base64?w6Q=?="]),
        "mcp-param-other": st.just("1"),
        "mcp-session-id": st.just("forged"),
        "last-event-id": st.just("1"),
    },
)
_TARGETS = st.one_of(
    st.sampled_from(["echo", "look", LONG_NAME, "mirrored", "nobody"]).map(lambda name: ("tools/call", name)),
    st.sampled_from(["greet", "grüß", "nobody"]).map(lambda name: ("prompts/get", name)),
    st.sampled_from(["test://static", "test://a/data", "test://grüß/data", "none"]).map(
        lambda uri: ("resources/read", uri)
    ),
)
_ARGUMENTS = st.one_of(
    st.dictionaries(TEXT, JSON, max_size=4),
    st.fixed_dictionaries({"region": st.sampled_from(["eu", "us", "ä", 1])}),
    near(30, 60).map(lambda value: {"deep": value}),
    st.just({"raw": "@RAW@"}),
    st.dictionaries(st.sampled_from(["name", "who"]), st.text(max_size=5), max_size=2),
    rarely([[], 1, "x", None], {}),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    method, name = draw(_TARGETS)
    params: dict[str, Any] = {"uri" if method == "resources/read" else "name": name}
    if method != "resources/read" and draw(st.booleans()):
        params["arguments"] = draw(_ARGUMENTS)
    params |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "com.example/unknown": JSON,
                "requestState": rarely(["forged", "", 1], None),
                "inputResponses": st.just({"a": {"action": "accept"}}),
            },
        )
        if draw(st.integers(0, 3)) == 0
        else st.just({})
    )
    params["_meta"] = draw(_METAS)
    identifier = draw(_IDENTIFIERS) if draw(st.integers(0, 5)) == 0 else draw(st.integers(0, 9))
    message = {"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}
    if draw(st.integers(0, 9)) == 0:
        message["com.example/top"] = draw(JSON)
    body = written(
        message,
        ascii_only=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1])),
        raw=draw(SPELLINGS if draw(st.integers(0, 9)) == 0 else SOUND),
    )
    headers = draw(_HEADERS) if draw(st.booleans()) else {}
    return Call(method, name, body, tuple(headers.items()))


CALLS: Final = calls()
