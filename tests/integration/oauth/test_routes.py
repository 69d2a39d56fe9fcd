"""The endpoints as clients and browsers meet them, in the whole application."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agentapi.principal import Role
from agentapi.tenancy.models import user_id_of
from integration.api.conftest import api, gateway, http, issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import ISSUER, PUBLIC_URL, Api
from integration.oauth.provider import Provider, provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BASE = "/api/v1/mcp/oauth"


@pytest.fixture
async def site() -> AsyncIterator[Provider]:
    async with provider() as made:
        yield made


async def registered(api: Api, site: Provider, name: str = "tracker") -> str:  # noqa: F811
    document = await api.caller().created(name=name, endpoint=f"{site.url}/mcp", auth="oauth")
    return str(document["id"])


def cookie_of(answer: Any) -> str:
    header = answer.headers["set-cookie"]
    assert re.fullmatch(r"__Host-agentapi-oauth=[\w-]{43}; HttpOnly; Max-Age=600; Path=/; SameSite=lax; Secure", header)
    return str(header.partition(";")[0])


async def browse(api: Api, site: Provider, url: str, cookie: str, **changes: str) -> Any:  # noqa: F811
    given = {**site.agree(url), **changes}
    return await api.http.get(f"{BASE}/callback", params=given, headers={"Cookie": cookie}, follow_redirects=True)


async def test_a_member_connects_refreshes_lists_and_revokes(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site)
    alice = api.caller(Role.MEMBER, "mia")
    begun = await alice.request("POST", f"{BASE}/init", json={"upstream": upstream})
    assert begun.status_code == 200, begun.text
    assert begun.headers["cache-control"] == "no-store"
    url = begun.json()["authorization_url"]
    assert parse_qs(urlsplit(url).query)["redirect_uri"] == [f"{PUBLIC_URL}{BASE}/callback"]
    page = await browse(api, site, url, cookie_of(begun))
    assert page.status_code == 200
    assert "Your account is connected to tracker." in page.text
    listed = (await alice.request("GET", f"{BASE}/connections")).json()
    assert [(item["upstream"], item["status"]) for item in listed["items"]] == [(upstream, "active")]
    refreshed = await alice.request("POST", f"{BASE}/refresh", json={"upstream": upstream})
    assert refreshed.status_code == 200
    assert site.refreshes == 1
    revoked = await alice.request("POST", f"{BASE}/revoke", json={"upstream": upstream})
    assert revoked.json() == {"at_provider": "revoked"}
    assert (await alice.request("GET", f"{BASE}/connections")).json() == {"items": [], "next_cursor": None}
    for action in ("refresh", "revoke"):
        assert (await alice.request("POST", f"{BASE}/{action}", json={"upstream": upstream})).status_code == 404
    everything = f"{begun.text}{page.text}{listed}{refreshed.text}"
    assert "access-" not in everything
    assert "refresh-" not in everything


async def test_the_page_of_a_success_holds_no_code_and_can_be_loaded_again(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "again")
    caller = api.caller()
    begun = await caller.request("POST", f"{BASE}/init", json={"upstream": upstream})
    page = await browse(api, site, begun.json()["authorization_url"], cookie_of(begun))
    assert page.url.path.startswith("/connected/")
    assert page.url.query == b""
    for _ in range(2):
        again = await api.http.get(page.url)
        assert again.status_code == 200
        assert "Your account is connected to again." in again.text
    await caller.request("POST", f"{BASE}/revoke", json={"upstream": upstream})
    later = await api.http.get(page.url)
    assert later.status_code == 404
    assert "is not any more" in later.text
    for unknown in ("x", "A" * 2000, str(page.url.path)[11:-1]):
        assert (await api.http.get(f"/connected/{unknown}")).status_code == 404


async def test_who_is_no_member_any_more_leaves_no_grant_behind(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "leaving")
    bob = api.caller(Role.MEMBER, "leaving-bob")
    begun = await bob.request("POST", f"{BASE}/init", json={"upstream": upstream})
    page = await browse(api, site, begun.json()["authorization_url"], cookie_of(begun))
    assert page.status_code == 200
    granted = set(site.refresh_tokens)
    ended = await api.caller().request("DELETE", f"/api/v1/members/{user_id_of(ISSUER, 'leaving-bob')}")
    assert ended.status_code == 204, ended.text
    assert {*site.revoked} == granted
    assert (await api.http.get(page.url)).status_code == 404


async def test_an_organisation_that_is_deleted_leaves_no_grant_behind(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "ending")
    begun = await api.caller(Role.MEMBER, "mia").request("POST", f"{BASE}/init", json={"upstream": upstream})
    page = await browse(api, site, begun.json()["authorization_url"], cookie_of(begun))
    assert page.status_code == 200
    granted = set(site.refresh_tokens)
    root = api.caller(Role.PLATFORM_ADMIN, "root")
    ended = await root.request("DELETE", f"/api/v1/platform/organizations/{api.tenant.principal.org_slug}")
    assert ended.status_code == 204, ended.text
    assert {*site.revoked} == granted


async def test_an_upstream_that_is_deleted_leaves_no_grant_behind(api: Api, site: Provider) -> None:  # noqa: F811
    upstream, kept = await registered(api, site, "going"), await registered(api, site, "staying")
    granted: dict[str, set[str]] = {}
    for subject, to in (("mia", upstream), ("bob", upstream), ("mia", kept)):
        begun = await api.caller(Role.MEMBER, subject).request("POST", f"{BASE}/init", json={"upstream": to})
        before = set(site.refresh_tokens)
        assert (await browse(api, site, begun.json()["authorization_url"], cookie_of(begun))).status_code == 200
        granted.setdefault(to, set()).update(set(site.refresh_tokens) - before)
    # Somebody is on the way, and comes back to an upstream that is gone.
    late = await api.caller(Role.MEMBER, "late").request("POST", f"{BASE}/init", json={"upstream": upstream})
    assert (await api.caller(Role.MEMBER, "mia").delete(upstream)).status_code == 403
    assert site.revoked == []
    assert (await api.caller().delete(upstream)).status_code == 204
    assert set(site.revoked) == granted[upstream]
    assert (await browse(api, site, late.json()["authorization_url"], cookie_of(late))).status_code != 200
    listed = (await api.caller(Role.MEMBER, "mia").request("GET", f"{BASE}/connections")).json()
    assert [item["upstream"] for item in listed["items"]] == [kept]


async def test_what_a_provider_says_no_with_is_told_once(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "refusing")
    for error in ("access_denied", "server_error"):
        begun = await api.caller().request("POST", f"{BASE}/init", json={"upstream": upstream})
        page = await browse(api, site, begun.json()["authorization_url"], cookie_of(begun), error=error)
        assert page.status_code == 502
        assert page.text.lower().count("nothing was connected") == 1


async def test_pages_run_nothing_and_are_framed_by_nobody(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "pages")
    begun = await api.caller().request("POST", f"{BASE}/init", json={"upstream": upstream})
    cookie = cookie_of(begun)
    good = await browse(api, site, begun.json()["authorization_url"], cookie)
    bad = await browse(api, site, begun.json()["authorization_url"], cookie, error="<script>alert(1)</script>")
    assert (good.status_code, bad.status_code) == (200, 403)
    for page in (good, bad):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (page.headers["x-frame-options"], page.headers["referrer-policy"]) == ("DENY", "no-referrer")
        assert page.headers["cache-control"] == "no-store"
        assert "<script" not in page.text
        assert '<html lang="en">' in page.text
        assert page.text.count("<h1>") == page.text.count("<main>") == 1
    assert 'role="alert"' in bad.text
    assert "begin again" in bad.text


async def test_a_callback_without_the_cookie_or_with_doubled_parameters_is_refused(
    api: Api,  # noqa: F811
    site: Provider,
) -> None:
    upstream = await registered(api, site, "doubled")
    begun = await api.caller().request("POST", f"{BASE}/init", json={"upstream": upstream})
    url, cookie = begun.json()["authorization_url"], cookie_of(begun)
    assert (await browse(api, site, url, "other=1")).status_code == 403
    given = list(site.agree(url).items())
    doubled = await api.http.get(f"{BASE}/callback", params=[*given, ("code", "another")], headers={"Cookie": cookie})
    assert doubled.status_code == 403
    assert "/token" not in site.paths()
    assert (await browse(api, site, url, cookie)).status_code == 200


async def test_init_needs_a_caller_and_an_upstream_of_theirs(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "theirs")
    assert (await api.http.post(f"{BASE}/init", json={"upstream": upstream})).status_code == 401
    for unknown in ("x", "00000000-0000-0000-0000-000000000000"):
        answer = await api.caller().request("POST", f"{BASE}/init", json={"upstream": unknown})
        assert answer.status_code == 404
    plain = await api.caller().created(name="plain")
    answer = await api.caller().request("POST", f"{BASE}/init", json={"upstream": plain["id"]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    elsewhere = {"upstream": upstream, "return_to": "https://evil.example"}
    assert (await api.caller().request("POST", f"{BASE}/init", json=elsewhere)).status_code == 422


async def test_clients_are_for_administrators_and_their_secrets_for_nobody(api: Api) -> None:  # noqa: F811
    body = {"issuer": "https://github.com/login/oauth", "client_id": "app", "client_secret": "s3cret-value"}
    member = api.caller(Role.MEMBER, "mia")
    for method in ("PUT", "GET", "DELETE"):
        given = {"json": body} if method == "PUT" else {}
        assert (await member.request(method, f"{BASE}/clients", **given)).status_code == 403
    assert (await api.caller().request("PUT", f"{BASE}/clients", json=body)).status_code == 204
    listed = await api.caller().request("GET", f"{BASE}/clients")
    assert listed.json()["items"] == [
        {
            "issuer": body["issuer"],
            "client_id": "app",
            "has_secret": True,
            "auth_method": "client_secret_post",
            "registration": "manual",
        }
    ]
    assert "s3cret-value" not in listed.text
    wrong = await api.caller().request("PUT", f"{BASE}/clients", json={**body, "issuer": ""})
    assert wrong.status_code == 422
    assert "s3cret-value" not in wrong.text
    assert (await api.caller().request("DELETE", f"{BASE}/clients", params={"issuer": "x"})).status_code == 404
    gone = await api.caller().request("DELETE", f"{BASE}/clients", params={"issuer": body["issuer"]})
    assert gone.status_code == 204


async def test_a_provider_is_chosen_by_who_may_change_the_upstream(api: Api, site: Provider) -> None:  # noqa: F811
    upstream = await registered(api, site, "chosen")
    path = f"{BASE}/providers/{upstream}"
    body = {"provider": "entra", "parameters": {"tenant": "organizations"}, "scopes": ["User.Read"]}
    assert (await api.caller().request("GET", path)).status_code == 404
    assert (await api.caller(Role.MEMBER, "mia").request("PUT", path, json=body)).status_code == 403
    assert (await api.caller().request("PUT", path, json={**body, "parameters": {}})).status_code == 422
    assert (await api.caller().request("PUT", path, json=body)).status_code == 204
    assert (await api.caller(Role.MEMBER, "mia").request("GET", path)).json() == body
    missing = await api.caller().request("POST", f"{BASE}/init", json={"upstream": upstream})
    assert (missing.status_code, missing.json()["code"]) == (409, "oauth_client_missing")
    await api.caller().request(
        "PUT",
        f"{BASE}/clients",
        json={"issuer": "https://login.microsoftonline.com/organizations/v2.0", "client_id": "app"},
    )
    begun = await api.caller().request("POST", f"{BASE}/init", json={"upstream": upstream})
    url = urlsplit(begun.json()["authorization_url"])
    assert url.path == "/organizations/oauth2/v2.0/authorize"
    assert parse_qs(url.query)["scope"] == ["User.Read offline_access"]
    assert "resource" not in parse_qs(url.query)
    assert (await api.caller().request("DELETE", path)).status_code == 204
    assert (await api.caller().request("DELETE", path)).status_code == 404


async def test_the_gateway_publishes_itself_as_a_client(api: Api) -> None:  # noqa: F811
    answer = await api.http.get("/.well-known/oauth-client.json")
    document = answer.json()
    assert document["client_id"] == f"{PUBLIC_URL}/.well-known/oauth-client.json"
    assert document["redirect_uris"] == [f"{PUBLIC_URL}{BASE}/callback"]
    assert document["token_endpoint_auth_method"] == "none"
