from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi.errors import InvalidRequestError
from agentapi.upstreams.forms import form_complaints
from agentapi.upstreams.mcp_servers import DeclaredServer, is_http_url, name_for_url, parse_mcp_servers
from agentapi.upstreams.models import Auth, Transport

HOME = Path("/home/ada")


def parsed(document: object) -> list[DeclaredServer]:
    return parse_mcp_servers(json.dumps(document), home=HOME)


def one(entry: object, *, label: str = "it", key: str = "mcpServers") -> DeclaredServer:
    (server,) = parsed({key: {label: entry}})
    return server


CLAUDE_DESKTOP = {
    "mcpServers": {
        "filesystem": {
            "command": "npx",
            "args": ["-y", "@modelcontextprotocol/server-filesystem", "/Users/ada/Desktop"],
        },
        "GitHub Issues": {"command": "docker", "args": ["run", "-i"], "env": {"GITHUB_TOKEN": "ghp_x"}},
    },
    "globalShortcut": "Ctrl+Space",
}
CURSOR = {
    "mcpServers": {
        "remote": {"url": "https://mcp.example/mcp", "headers": {"Authorization": "Bearer s3cret"}},
        "keyed": {"url": "https://mcp.example/mcp", "headers": {"X-API-Key": "s3cret"}},
        "old": {"type": "sse", "url": "https://mcp.example/sse"},
    }
}
VS_CODE = {
    "inputs": [],
    "servers": {
        "github": {"type": "http", "url": "https://api.githubcopilot.com/mcp/"},
        "time": {"type": "stdio", "command": "uvx", "args": ["mcp-server-time"]},
    },
}
WINDSURF = {"mcpServers": {"remote": {"serverUrl": "https://mcp.example/sse", "transport": "sse"}}}


def test_the_file_of_claude_desktop_is_read() -> None:
    filesystem, github = parsed(CLAUDE_DESKTOP)
    assert (filesystem.name, filesystem.transport, filesystem.endpoint) == ("filesystem", Transport.STDIO, None)
    assert filesystem.command is not None
    assert filesystem.command.command == "npx"
    assert filesystem.command.args == ("-y", "@modelcontextprotocol/server-filesystem", "/Users/ada/Desktop")
    assert filesystem.command.env["HOME"].get_secret_value() == "/home/ada"
    assert github.name == "github-issues"
    assert github.command is not None
    assert github.command.env["GITHUB_TOKEN"].get_secret_value() == "ghp_x"
    assert "ghp_x" not in repr(github)


def test_the_file_of_cursor_is_read() -> None:
    remote, keyed, old = parsed(CURSOR)
    assert (remote.transport, remote.endpoint) == (Transport.HTTP, "https://mcp.example/mcp")
    assert (remote.auth, remote.auth_header, remote.secret) == (Auth.BEARER, None, "s3cret")
    assert (keyed.auth, keyed.auth_header, keyed.secret) == (Auth.API_KEY, "X-API-Key", "s3cret")
    assert (old.transport, old.auth, old.secret) == (Transport.SSE, Auth.NONE, None)
    assert "s3cret" not in repr([remote, keyed])


def test_the_file_of_vs_code_is_read() -> None:
    github, clock = parsed(VS_CODE)
    assert (github.transport, github.endpoint) == (Transport.HTTP, "https://api.githubcopilot.com/mcp/")
    assert (clock.transport, clock.auth) == (Transport.STDIO, Auth.NONE)


def test_the_file_of_windsurf_is_read() -> None:
    (remote,) = parsed(WINDSURF)
    assert (remote.transport, remote.endpoint) == (Transport.SSE, "https://mcp.example/sse")


@pytest.mark.parametrize("kind", ["http", "streamable-http", "streamableHttp"])
def test_every_word_for_streamable_http_is_known(kind: str) -> None:
    assert one({"type": kind, "url": "https://mcp.example/"}).transport is Transport.HTTP


def test_a_command_has_the_network_where_the_file_says_so() -> None:
    (without, given) = (one({"command": "x", **more}).command for more in ({}, {"network": True}))
    assert without is not None
    assert not without.network
    assert given is not None
    assert given.network


def test_a_home_that_the_file_gives_wins() -> None:
    command = one({"command": "x", "env": {"HOME": "/elsewhere"}}).command
    assert command is not None
    assert command.env["HOME"].get_secret_value() == "/elsewhere"


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        ("authorization", "bearer x", (Auth.BEARER, None, "x")),
        ("Authorization", "Bearer   x ", (Auth.BEARER, None, "x")),
        ("Authorization", "Basic eA==", (Auth.API_KEY, "Authorization", "Basic eA==")),
        ("Authorization", "token", (Auth.API_KEY, "Authorization", "token")),
    ],
)
def test_a_header_becomes_a_credential(header: str, value: str, expected: tuple[Auth, str | None, str]) -> None:
    server = one({"url": "https://mcp.example/", "headers": {header: value}})
    assert (server.auth, server.auth_header, server.secret) == expected


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("A", "a"),
        ("My Server!", "my-server"),
        ("a__b", "a-b"),
        ("--a--", "a"),
        ("x" * 40, "x" * 32),
        ("a" * 31 + " b", "a" * 31),
    ],
)
def test_a_label_becomes_a_name_that_an_upstream_may_have(label: str, name: str) -> None:
    assert one({"command": "x"}, label=label).name == name


ENTRIES: dict[str, tuple[object, str]] = {
    "a text": ("npx", "is not an object"),
    "null": (None, "is not an object"),
    "neither command nor url": ({}, "neither a 'command' nor an http"),
    "a file": ({"url": "file:///etc/passwd"}, "neither a 'command' nor an http"),
    "no host": ({"url": "https:///mcp"}, "neither a 'command' nor an http"),
    "a bad port": ({"url": "https://mcp.example:99999/"}, "neither a 'command' nor an http"),
    "a broken host": ({"url": "https://[::1/"}, "neither a 'command' nor an http"),
    "a url of the wrong type": ({"url": 7}, "neither a 'command' nor an http"),
    "an unknown type": ({"url": "https://x.example", "type": "websocket"}, "unknown type 'websocket'"),
    "a type of the wrong type": ({"url": "https://x.example", "type": ["http"]}, "unknown type"),
    "an object as type": ({"url": "https://x.example", "type": {"a": 1}}, "unknown type"),
    "a command of the wrong type": ({"command": ["npx"]}, "needs 'command' as text"),
    "arguments as text": ({"command": "npx", "args": "-y"}, "needs 'command' as text"),
    "a number among the arguments": ({"command": "npx", "args": [1]}, "needs 'command' as text"),
    "an environment as list": ({"command": "npx", "env": ["A=b"]}, "needs 'command' as text"),
    "a network that is a word": ({"command": "npx", "network": "yes"}, "'network' must be true or false"),
    "a number in the environment": ({"command": "npx", "env": {"PORT": 1}}, "needs 'command' as text"),
    "null arguments": ({"command": "npx", "args": None}, "needs 'command' as text"),
    "headers as list": ({"url": "https://x.example", "headers": ["A: b"]}, "'headers' must map"),
    "a number as header": ({"url": "https://x.example", "headers": {"A": 1}}, "'headers' must map"),
    "two headers": ({"url": "https://x.example", "headers": {"A": "1", "B": "2"}}, "has 2 headers"),
    "a placeholder": ({"command": "npx", "env": {"TOKEN": "${input:token}"}}, "has a placeholder"),
    "a placeholder in a list": ({"command": "npx", "args": ["${workspaceFolder}"]}, "has a placeholder"),
    "a placeholder in the url": ({"url": "https://${HOST}/mcp"}, "has a placeholder"),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "complaint"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_that_is_wrong_is_named(entry: object, complaint: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        one(entry, label="wrong one")
    assert complaint in caught.value.message
    assert "'wrong one'" in caught.value.message
    assert "\n" not in caught.value.message


FILES: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "mcpServers:",
    "a comment": '{"mcpServers": {} // none\n}',
    "not UTF-8": b'{"mcpServers": "\xff"}',
    "a list": "[]",
    "no servers": "{}",
    "an empty object": '{"mcpServers": {}}',
    "a list of servers": '{"mcpServers": [{"command": "x"}]}',
    "null": '{"mcpServers": null}',
    "nested too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_of_another_form_is_one_sentence(text: str | bytes) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"^The file (is not JSON|has no 'mcpServers' object with entries)\.$"
    ):
        parse_mcp_servers(text, home=HOME)


def test_an_input_of_a_header_is_asked_of_each_user() -> None:
    file = {
        "inputs": [
            {"type": "promptString", "id": "Org-Id", "description": "Your\n organisation", "password": False},
            {"id": "token", "description": "Token", "password": True},
            "nonsense",
        ],
        "servers": {
            "tracker": {
                "url": "https://x.example/mcp",
                "headers": {"Authorization": "Bearer ${input:token}", "X-Org": "${input:Org-Id}/${input:other}"},
            }
        },
    }
    (server,) = parsed(file)
    assert (server.auth, server.secret, server.auth_header) == (Auth.USER, None, None)
    assert server.form is not None
    assert [(field.name, field.label, field.kind.value) for field in server.form.fields] == [
        ("token", "Token", "secret"),
        ("org_id", "Your organisation", "text"),
        ("other", "other", "secret"),
    ]
    assert [(placement.name, placement.value) for placement in server.form.placements] == [
        ("Authorization", "Bearer {token}"),
        ("X-Org", "{org_id}/{other}"),
    ]
    complaints = form_complaints(server.form, is_command=False, endpoint=server.endpoint, variables=())
    assert list(complaints) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"A": "${env:TOKEN}"},
        {"A": "${input:}"},
        {"A": "${input:a}{b}"},
        {"A": "${input:a}", "B": "fixed"},
        {"A": "${input:a-b}${input:a_b}"},
        {"Host": "${input:a}"},
        {"A": "${input:" + "x" * 65 + "}"},
        {"A" * 65: "${input:a}"},
        {"A": "".join(f"${{input:{name}}}" for name in "abcdefghi")},
    ],
)
def test_a_header_that_asks_is_text_and_inputs(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidRequestError, match="'tracker'"):
        one({"url": "https://x.example", "headers": headers}, label="tracker")


def test_two_labels_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="would both be called 'a-b'"):
        parsed({"mcpServers": {"a b": {"command": "x"}, "A_B": {"command": "y"}}})


def test_a_label_without_letters_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no letter or digit"):
        parsed({"mcpServers": {"漢字": {"command": "x"}}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["http", "https://x.example"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["command", "args", "env", "url", "serverUrl", "type", "transport", "headers", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(servers=st.dictionaries(st.text(max_size=40), JSON, max_size=4), key=st.sampled_from(["mcpServers", "servers"]))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_file_crashes_the_parser(servers: dict[str, Any], key: str) -> None:
    try:
        found = parsed({key: servers})
    except InvalidRequestError as error:
        assert error.message.isprintable() or any(not label.isprintable() for label in servers)  # noqa: PT017
        return
    assert len({server.name for server in found}) == len(servers)
    assert all((server.command is None) == (server.endpoint is not None) for server in found)


@given(raw=st.binary(max_size=100) | st.text(max_size=100))
def test_no_bytes_crash_the_parser(raw: bytes | str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_mcp_servers(raw, home=HOME)


@pytest.mark.parametrize(
    ("url", "taken", "name"),
    [
        ("https://mcp.example/mcp", set(), "mcp-example"),
        ("http://127.0.0.1:8123/mcp", set(), "127-0-0-1-8123"),
        ("https://mcp.example/", {"mcp-example"}, "mcp-example-2"),
        ("https://mcp.example/", {"mcp-example", "mcp-example-2"}, "mcp-example-3"),
        ("https://" + "a" * 40 + ".example/", set(), "a" * 32),
        ("https://" + "a" * 40 + ".example/", {"a" * 32}, "a" * 30 + "-2"),
    ],
)
def test_a_url_gives_a_free_name(url: str, taken: set[str], name: str) -> None:
    assert name_for_url(url, taken) == name


@pytest.mark.parametrize("url", ["https://x.example", "http://127.0.0.1:1/", "http://[::1]:8000/mcp"])
def test_an_http_address_is_one(url: str) -> None:
    assert is_http_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "//x.example",
        "ftp://x",
        "https://",
        "http://:80",
        "http://x:0",
        "http://x:port",
        "http://[",
        "http://x:-1",
    ],
)
def test_what_is_no_http_address_is_none(url: str) -> None:
    assert not is_http_url(url)


def test_the_gateways_own_name_is_nobodys() -> None:
    with pytest.raises(InvalidRequestError, match="the gateway's own name"):
        one({"url": "https://mcp.example/mcp"}, label="AgentAPI")
    assert name_for_url("https://agentapi/mcp", set()) == "agentapi-2"
