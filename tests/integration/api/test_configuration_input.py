"""What a client may send: every complaint at once, each with the place that it is about."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi.api_input import parse
from agentapi.errors import InvalidRequestError
from agentapi.upstreams.requests import ConnectionTest, UpstreamInput
from integration.api.harness import CONFIGURATIONS, Api, configuration

if TYPE_CHECKING:
    import httpx2


JSON_TYPE = {"content-type": "application/json"}


def pointers(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["code"] == "invalid_request"
    assert all(error["detail"] for error in document["errors"])
    return [error["pointer"] for error in document["errors"]]


FIELDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no name": ({"name": ...}, ["/name"]),
    "null name": ({"name": None}, ["/name"]),
    "a number as name": ({"name": 7}, ["/name"]),
    "a boolean as text": ({"enabled": "true"}, ["/enabled"]),
    "a number as boolean": ({"enabled": 1}, ["/enabled"]),
    "an unknown field": ({"colour": "red"}, ["/colour"]),
    "a field name to be escaped": ({"a/b~c": 1}, ["/a~1b~0c"]),
    "an internal field": ({"version": 7, "id": "x", "owner_id": "y"}, ["/id", "/owner_id", "/version"]),
    "an unknown transport": ({"transport": "websocket"}, ["/transport"]),
    "an unknown auth": ({"auth": "basic"}, ["/auth"]),
    "an unknown scope": ({"scope": "world"}, ["/scope"]),
    "a list as endpoint": ({"endpoint": ["http://127.0.0.1:18080"]}, ["/endpoint"]),
    "a long endpoint": ({"endpoint": "http://127.0.0.1:18080/" + "x" * 2048}, ["/endpoint"]),
    "a long description": ({"description": "x" * 1001}, ["/description"]),
    "a null in the description": ({"description": "a\0b"}, ["/description"]),
    "an object as secret": ({"auth": "bearer", "secret": {}}, ["/secret"]),
    "a bad workspace": ({"workspace": "../other"}, ["/workspace"]),
    "an endpoint with a fragment": ({"endpoint": "http://127.0.0.1:18080/mcp#x"}, ["/endpoint"]),
    "an endpoint with an empty fragment": ({"endpoint": "http://127.0.0.1:18080/mcp#"}, ["/endpoint"]),
    "an endpoint with a space": ({"endpoint": "http://127.0.0.1:18080/m cp"}, ["/endpoint"]),
    "an endpoint with a space before it": ({"endpoint": " http://127.0.0.1:18080/mcp"}, ["/endpoint"]),
    "an endpoint with a backslash": ({"endpoint": "http://127.0.0.1:18080/mcp\\x"}, ["/endpoint"]),
    "no endpoint": ({"endpoint": ...}, ["/endpoint"]),
    "null endpoint": ({"endpoint": None}, ["/endpoint"]),
    "a command beside an endpoint": ({"command": "clock"}, ["/command"]),
    "a header without api_key": ({"auth_header": "X-Key"}, ["/auth_header"]),
    "a secret without auth": ({"secret": "s"}, ["/secret"]),
    "everything at once, of the types": (
        {"name": "UPPER", "transport": 1, "enabled": None, "more": 0, "description": []},
        ["/description", "/enabled", "/more", "/name", "/transport"],
    ),
    "everything at once, of the meaning": (
        {"command": "clock", "endpoint": ..., "auth": "bearer", "auth_header": "Host"},
        ["/auth_header", "/command", "/endpoint", "/secret"],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), FIELDS.values(), ids=FIELDS)
async def test_every_complaint_names_its_field(api: Api, changes: dict[str, Any], expected: list[str]) -> None:
    admin = api.caller()
    assert sorted(pointers(await admin.create(**changes))) == expected
    inline = await admin.test(configuration=configuration(**changes))
    assert [pointer.removeprefix("/configuration") for pointer in sorted(pointers(inline))] == expected
    stored = await admin.created()
    assert sorted(pointers(await admin.replace(stored["id"], **changes))) == expected
    assert (await admin.read(stored["id"])).json() == stored


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a-b-c1", "x" * 32])
async def test_a_good_name_is_taken(api: Api, name: str) -> None:
    assert (await api.caller().created(name=name))["name"] == name


BAD_NAMES = [
    "", "A", "a_b", "a__b", "a--b", "-a", "a-", "a b", "a.b", "a/b", "ä", "a\n", "\na", "a\0", "x" * 33, "\u0660", "ａ"  # noqa: RUF001
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_no_tool_could_carry_is_refused(api: Api, name: str) -> None:
    assert pointers(await api.caller().create(name=name)) == ["/name"]


@pytest.mark.parametrize(
    "header",
    ["", "Host", "host", "Cookie", "Content-Length", "Transfer-Encoding", "Mcp-Session-Id", "MCP-Protocol-Version",
     "Accept", "X Y", "X:Y", "X\r\nY", "ä", "X-" + "a" * 63],
)  # fmt: skip
async def test_a_header_that_carries_no_credential_is_refused(api: Api, header: str) -> None:
    answer = await api.caller().create(auth="api_key", auth_header=header, secret="s")
    assert pointers(answer) == ["/auth_header"]


BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"name=github",
    "cut short": b'{"name": "gith',
    "more behind": b"{} {}",
    "not UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "a lone surrogate": b'{"name": "\\ud800"}',
    "a list": b"[]",
    "null": b"null",
    "a text": b'"text"',
    "NaN": b'{"name": NaN}',
    "nested too deep": b'{"name":' + b"[" * 30_000,
    "nested objects": b'{"a":' * 8000 + b"1" + b"}" * 8000,
    "a huge number": b'{"name": ' + b"9" * 60_000 + b"}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_object_of_ours_is_refused(api: Api, body: bytes) -> None:
    admin = api.caller()
    id_ = (await admin.created())["id"]
    targets = (("POST", CONFIGURATIONS), ("PUT", f"{CONFIGURATIONS}/{id_}"), ("POST", "/api/v1/mcp/test"))
    for method, path in targets:
        pointers(await admin.request(method, path, content=body, headers=JSON_TYPE))
    assert await admin.names() == ["github"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_body_above_64_kib_is_refused_before_it_is_read(api: Api, stream: bool) -> None:
    admin = api.caller()
    id_ = (await admin.created())["id"]
    filler = json.dumps(configuration(description="x" * 70_000)).encode()

    async def chunks() -> Any:
        for start in range(0, len(filler), 1000):
            yield filler[start : start + 1000]

    for method, path in (
        ("POST", CONFIGURATIONS),
        ("PUT", f"{CONFIGURATIONS}/{id_}"),
        ("POST", "/api/v1/mcp/test"),
    ):
        answer = await admin.request(method, path, content=chunks() if stream else filler, headers=JSON_TYPE)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_of_just_under_64_kib_is_read(api: Api) -> None:
    body = json.dumps(configuration()).encode().ljust(64 * 1024)
    for sent, status in ((body, 201), (body + b" ", 413)):
        answer = await api.caller().request("POST", CONFIGURATIONS, content=sent, headers=JSON_TYPE)
        assert answer.status_code == status


GUARDED: dict[str, str] = {
    "http": "http://upstream.example/mcp",
    "another scheme": "ftp://upstream.example/mcp",
    "a file": "file:///etc/passwd",
    "no scheme": "upstream.example/mcp",
    "no host": "https:///mcp",
    "user information": "https://user:pass@upstream.example/mcp",
    "user information that looks like a host": "https://upstream.example@127.0.0.1/mcp",
    "loopback": "https://127.0.0.1/mcp",
    "loopback by name": "https://localhost/mcp",
    "loopback in short": "https://127.1/mcp",
    "loopback as a number": "https://2130706433/mcp",
    "loopback in hexadecimal": "https://0x7f000001/mcp",
    "loopback in octal": "https://0177.0.0.1/mcp",
    "loopback, version 6": "https://[::1]/mcp",
    "loopback, mapped": "https://[::ffff:127.0.0.1]/mcp",
    "any address": "https://0.0.0.0/mcp",
    "private 10": "https://10.0.0.5/mcp",
    "private 172": "https://172.16.3.4/mcp",
    "private 192": "https://192.168.1.1/mcp",
    "carrier grade": "https://100.64.0.1/mcp",
    "metadata": "https://169.254.169.254/latest/meta-data",
    "metadata, version 6": "https://[fd00:ec2::254]/latest",
    "link-local, version 6": "https://[fe80::1]/mcp",
    "unique local": "https://[fc00::1]/mcp",
    "a null": "https://upstream.example/\0",
    "a line break": "https://upstream.example/\r\nHost: evil",
    "a backslash": "https://upstream.example\\@127.0.0.1/",
}


@pytest.mark.parametrize("endpoint", GUARDED.values(), ids=GUARDED)
async def test_an_address_that_may_not_be_called_is_refused(strict_api: Api, endpoint: str) -> None:
    admin = strict_api.caller()
    for transport in ("http", "sse"):
        assert pointers(await admin.create(endpoint=endpoint, transport=transport)) == ["/endpoint"]
    inline = await admin.test(configuration=configuration(endpoint=endpoint))
    assert [pointer.removeprefix("/configuration") for pointer in pointers(inline)] == ["/endpoint"]
    assert await admin.names() == []


async def test_an_endpoint_does_not_become_a_forbidden_one_by_replacement(strict_api: Api) -> None:
    admin = strict_api.caller()
    # Nothing resolves here; what does not resolve now may later, and is checked again then.
    created = await admin.created(endpoint="https://upstream.invalid/mcp")
    for endpoint in ("https://10.0.0.1/mcp", "http://upstream.invalid/mcp"):
        assert pointers(await admin.replace(created["id"], endpoint=endpoint)) == ["/endpoint"]


@pytest.mark.parametrize("command", [..., None, "", "rm", "clock --flag", "/bin/sh", "Clock", "clock\0", "../clock"])
async def test_a_command_that_is_not_allowed_names_those_that_are(api: Api, command: object) -> None:
    answer = await api.caller().create(transport="stdio", endpoint=..., command=command)
    assert pointers(answer) == ["/command"]
    assert "broken, clock, keyed" in answer.json()["errors"][0]["detail"]


async def test_where_no_command_is_allowed_the_answer_says_so(strict_api: Api) -> None:
    answer = await strict_api.caller().create(transport="stdio", endpoint=..., command="clock")
    assert answer.json()["errors"][0]["detail"].endswith("commands: none.")


async def test_a_command_takes_no_endpoint_and_no_credential(api: Api) -> None:
    answer = await api.caller().create(transport="stdio", command="clock", auth="bearer", secret="s")
    assert sorted(pointers(answer)) == ["/auth", "/endpoint"]


@pytest.mark.parametrize("body", [{}, {"id": None}, {"id": "x", "configuration": configuration()}])
async def test_a_test_names_one_configuration(api: Api, body: dict[str, Any]) -> None:
    assert pointers(await api.caller().test(**body)) == [""]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
BODY = st.dictionaries(st.sampled_from([*UpstreamInput.model_fields, "other"]), JSON, max_size=6)


@given(body=BODY | JSON, raw=st.binary(max_size=50))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_body_crashes_the_parser(body: object, raw: bytes) -> None:
    for model in (UpstreamInput, ConnectionTest):
        for content in (json.dumps(body).encode(), raw):
            with contextlib.suppress(InvalidRequestError):
                assert isinstance(parse(model, content), model)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/json5"])
async def test_a_body_of_another_media_type_is_refused(api: Api, kind: str) -> None:
    body = json.dumps(configuration()).encode()
    answer = await api.caller().request("POST", CONFIGURATIONS, content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_compressed_body_is_refused(api: Api) -> None:
    headers = {**JSON_TYPE, "content-encoding": "gzip"}
    body = gzip.compress(json.dumps(configuration()).encode())
    answer = await api.caller().request("POST", CONFIGURATIONS, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in answer.json()["detail"]


async def test_a_key_given_twice_is_named(api: Api) -> None:
    body = json.dumps(configuration()).replace("{", '{"name": "first", ', 1).encode()
    assert pointers(await api.caller().request("POST", CONFIGURATIONS, content=body, headers=JSON_TYPE)) == ["/name"]
