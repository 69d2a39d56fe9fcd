from __future__ import annotations

from typing import Any

import pytest

from agentapi.upstreams.envelope import GATEWAY_INFO, MirroredParams, header_map, modern_headers, modern_meta


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", "properties": properties}}


REGION = {"type": "string", "x-mcp-header": "Region"}


def test_meta_names_version_client_and_what_it_can_be_asked_for() -> None:
    prefix = "io.modelcontextprotocol"
    assert modern_meta("2026-07-28", {"roots": {}}, {"name": "c"}) == {
        f"{prefix}/protocolVersion": "2026-07-28",
        f"{prefix}/clientInfo": {"name": "c"},
        f"{prefix}/clientCapabilities": {"roots": {}},
    }
    assert modern_meta("2026-07-28", {}, {})[f"{prefix}/clientInfo"] == GATEWAY_INFO


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "t"}, "t"),
        ("prompts/get", {"name": "p"}, "p"),
        ("resources/read", {"uri": "test://ä"}, "=?base64?dGVzdDovL8Ok?="),
        ("tools/list", {"name": "no"}, None),
        ("tools/call", {"name": 5}, None),
    ],
)
def test_headers_repeat_method_and_name(method: str, params: dict[str, Any], name: str | None) -> None:
    headers = modern_headers("2026-07-28", method, params, {})
    expected = {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
    assert headers == (expected if name is None else {**expected, "mcp-name": name})


def test_arguments_are_repeated_where_the_schema_says_so() -> None:
    mirrored = header_map(tool("t", region=REGION, other={"type": "string"}))
    headers = modern_headers("2026-07-28", "tools/call", {"name": "t", "arguments": {"region": "eu"}}, mirrored)
    assert headers["Mcp-Param-Region"] == "eu"
    assert "Mcp-Param-Region" not in modern_headers("2026-07-28", "tools/call", {"name": "t"}, mirrored)


@pytest.mark.parametrize(
    "definition",
    [{}, {"inputSchema": 5}, tool("t", region={"type": "number", "x-mcp-header": "Region"}), tool("t")],
)
def test_a_schema_that_is_wrong_or_says_nothing_repeats_nothing(definition: dict[str, Any]) -> None:
    assert header_map(definition) == {}


def test_what_lists_have_shown_is_kept_until_they_show_otherwise() -> None:
    mirrored = MirroredParams()
    mirrored.learn({"tools": [tool("t", region=REGION), tool("plain"), "nonsense", {"name": 5}]})
    assert mirrored.of("t") == {("region",): "Region"}
    assert mirrored.of("plain") == mirrored.of("none") == mirrored.of(5) == {}
    mirrored.learn({"tools": [tool("other")]})
    assert mirrored.of("t") == {("region",): "Region"}
    mirrored.learn({"tools": [tool("t")]})
    assert mirrored.of("t") == {}
    mirrored.learn({"tools": None})
