"""``/mcp/{org}/{workspace}`` up to the protocol engine: the order of the checks, and what strangers learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi.principal import Role
from integration.api.harness import PUBLIC_URL, Api

if TYPE_CHECKING:
    import httpx2

LIST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
HEADERS = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}


async def asked(
    api: Api, path: str, *, method: str = "POST", role: Role = Role.MEMBER, **given: Any
) -> httpx2.Response:
    headers = {**HEADERS, **given.pop("headers", {})}
    if method == "POST" and not {"content", "json"} & set(given):
        given["json"] = LIST
    return await api.caller(role).request(method, path, headers=headers, **given)


def own(api: Api, workspace: str = "main") -> str:
    return f"/mcp/{api.tenant.principal.org_slug}/{workspace}"


@pytest.mark.parametrize("role", Role)
async def test_every_role_lists_the_tools_of_an_empty_workspace(api: Api, role: Role) -> None:
    answer = await asked(api, own(api), role=role)
    assert answer.status_code == 200, answer.text
    assert '"tools":[]' in answer.text.replace(" ", "")


def stranger(api: Api) -> list[str]:
    return [own(api, "missing"), f"/mcp/org-{uuid4().hex}/main", "/mcp/demo/main"]


async def test_what_may_not_be_known_reads_like_what_does_not_exist(api: Api) -> None:
    answers = [await asked(api, path) for path in stranger(api)]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["error"]["message"] == "There is no such workspace."


BAD_SLUGS = [
    "UPPER",
    "a_b",
    "a--b",
    "-a",
    "a-",
    "%00",
    "%0d%0aX-Evil:%201",
    "a%20b",
    "%2e%2e",
    "a%2fb",
    "%22%3e",
    "ä",
    "a;b",
    "a,b",
]


@pytest.mark.parametrize("slug", BAD_SLUGS)
async def test_a_name_that_is_none_never_reaches_a_header(api: Api, http: httpx2.AsyncClient, slug: str) -> None:
    for path in (f"/mcp/{slug}/main", f"/mcp/acme/{slug}"):
        # Without a token: a challenge would carry the name in its metadata address.
        for prefix in ("", "/.well-known/oauth-protected-resource"):
            answer = await http.request("GET" if prefix else "POST", prefix + path)
            assert answer.status_code == 404
            assert "www-authenticate" not in answer.headers
            assert "x-evil" not in answer.headers
        assert (await asked(api, path)).status_code == 404


async def test_without_a_token_the_challenge_names_the_metadata(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/mcp/acme/main", content=b"{")
    assert answer.status_code == 401
    metadata = f"{PUBLIC_URL}/.well-known/oauth-protected-resource/mcp/acme/main"
    assert answer.headers["www-authenticate"] == f'Bearer resource_metadata="{metadata}"'
    document = (await http.get(metadata)).json()
    assert document["resource"] == f"{PUBLIC_URL}/mcp/acme/main"
    assert document["bearer_methods_supported"] == ["header"]


async def test_a_page_of_any_origin_may_read_the_metadata(http: httpx2.AsyncClient) -> None:
    answer = await http.get(
        "/.well-known/oauth-protected-resource/mcp/acme/main", headers={"Origin": "https://x.example"}
    )
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://gateway.example.evil",
        "https://gateway.example",
        "HTTP://GATEWAY.EXAMPLE",
    ],
)
async def test_a_foreign_origin_is_refused_before_the_token_is_read(
    http: httpx2.AsyncClient, api: Api, origin: str
) -> None:
    for answer in (
        await http.post("/mcp/acme/main", headers={"Origin": origin}),
        await asked(api, own(api), headers={"Origin": origin}),
    ):
        assert answer.status_code == 403
        assert "www-authenticate" not in answer.headers


async def test_the_gateways_own_origin_is_accepted(api: Api) -> None:
    assert (await asked(api, own(api), headers={"Origin": PUBLIC_URL})).status_code == 200


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_another_method_is_refused_after_the_token(api: Api, http: httpx2.AsyncClient, method: str) -> None:
    answer = await asked(api, own(api), method=method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await http.request(method, own(api))).status_code == 401
    assert (await asked(api, own(api, "missing"), method=method)).status_code == 404


@pytest.mark.parametrize("type_", ["", "text/plain", "application/jsonp", "application/x-www-form-urlencoded"])
async def test_another_media_type_is_refused(api: Api, type_: str) -> None:
    answer = await asked(api, own(api), content=b"{}", headers={"Content-Type": type_})
    assert answer.status_code == 415
    assert answer.json()["error"]["data"]["code"] == "unsupported_media_type"


async def test_a_viewer_lists_and_does_not_call(api: Api) -> None:
    call = {**LIST, "method": "tools/call", "params": {**LIST["params"], "name": "x__y", "arguments": {}}}  # type: ignore[dict-item] # JSON
    headers = {"Mcp-Method": "tools/call", "Mcp-Name": "x__y"}
    refused = await asked(api, own(api), role=Role.VIEWER, headers=headers, json=call)
    allowed = await asked(api, own(api), role=Role.AGENT, headers=headers, json=call)
    assert "lacks the permission 'tools:call'" in refused.text
    assert "Unknown tool: x__y" in allowed.text


async def test_a_cursor_of_nobody_is_refused(api: Api) -> None:
    answer = await asked(api, own(api), json={**LIST, "params": {**LIST["params"], "cursor": "1"}})  # type: ignore[dict-item] # JSON
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (
        -32602,
        "Unknown cursor: it expired, or the list has changed. Ask for the list again.",
    )


async def test_a_list_may_be_kept_by_its_caller_alone(api: Api) -> None:
    result = (await asked(api, own(api))).json()["result"]
    # What AGENTAPI_CATALOGUE_TTL_S is by default.
    assert (result["cacheScope"], result["ttlMs"]) == ("private", 60_000)
