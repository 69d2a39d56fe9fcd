"""The link that a call is answered with, the form behind it, and the call that then goes on, with real clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult

from agentapi.principal import Role
from integration.api.conftest import api, gateway, http, issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import Api, served
from support.clients import Mode, mcp_client
from support.echo_upstream import EchoUpstream
from support.page_browser import Page, PageBrowser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

FORM: dict[str, Any] = {
    "fields": [
        {"name": "user", "label": "Login <b>", "kind": "text", "pattern": "[a-z]+"},
        {
            "name": "token",
            "label": "Token",
            "help": 'From "settings".',
            "help_url": "https://tracker.example/?a=1&b=2",
        },
    ],
    "placements": [{"place": "header", "name": "Authorization", "value": "basic:{user}:{token}"}],
}
TOKEN, BAD = "a-token-of-words", "a-bad-token-of-words"
GIVEN = "Basic YW5uOmEtdG9rZW4tb2Ytd29yZHM="
REFUSED = "Basic YW5uOmEtYmFkLXRva2VuLW9mLXdvcmRz"


@dataclass
class Place:
    """A gateway with one such upstream, called ``tracker``."""

    api: Api
    upstream: EchoUpstream
    base: str
    id: str

    def token(self, subject: str = "mia") -> str:
        return self.api.caller(Role.MEMBER, subject).token

    def client(self, mode: Mode, subject: str = "mia", **options: Any) -> Any:
        return mcp_client(
            f"{self.base}/mcp/{self.api.tenant.principal.org_slug}/main", self.token(subject), mode, **options
        )

    async def link(self, subject: str = "mia") -> str:
        async with self.client("2026-07-28", subject) as client:
            with pytest.raises(MCPError) as caught:
                await client.call_tool("tracker__echo", {})
        return str(caught.value.error.data["url"])

    async def form(self, browser: PageBrowser, url: str, subject: str = "mia") -> Page:
        return await browser.submit(await browser.get(url), token=self.token(subject))

    async def give(self, url: str) -> None:
        browser = PageBrowser(self.api.http)
        page = await self.form(browser, url)
        done = await browser.submit(page, **{"field.user": "ann", "field.token": TOKEN})
        assert "is connected to tracker" in done.text, done.text

    async def status(self, subject: str = "mia") -> str:
        caller = self.api.caller(Role.MEMBER, subject)
        return str((await caller.request("GET", f"/api/v1/mcp/credentials/{self.id}")).json()["status"])


@pytest.fixture
async def place(gateway: Starlette, api: Api) -> AsyncIterator[Place]:  # noqa: F811
    upstream = EchoUpstream(refuses={REFUSED: "Bearer"})
    async with served(upstream) as url, served(gateway) as base:
        made = await api.caller().created(name="tracker", endpoint=f"{url}/mcp", auth="user", credential_form=FORM)
        yield Place(api, upstream, base, str(made["id"]))


@pytest.mark.parametrize("legacy", [False, True], ids=["modern upstream", "legacy upstream"])
async def test_a_modern_client_is_sent_to_the_form_and_its_call_goes_on(place: Place, legacy: bool) -> None:
    place.upstream.legacy = legacy

    async def answer(_: Any, params: Any) -> ElicitResult:
        assert "needs a credential of yours" in params.message
        await place.give(params.url)
        return ElicitResult(action="accept")

    async with place.client("2026-07-28", elicitation_callback=answer) as client:
        first = await client.call_tool("tracker__echo", {})
    assert first.content[0].text.startswith(GIVEN)
    assert {seen.credential for seen in place.upstream.seen} == {GIVEN}


async def test_a_client_that_opens_nothing_is_told_the_address(place: Place) -> None:
    async with place.client("legacy") as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("tracker__echo", {})
        await place.give(caught.value.error.data["url"])
        assert (await client.call_tool("tracker__echo", {})).content[0].text.startswith(GIVEN)
        # What the upstream takes no more is asked for again, and what may too little as well.
        for challenge, status in (("Bearer", "rejected"), ('Bearer error="insufficient_scope", scope="w"', "narrow")):
            place.upstream.refuses[GIVEN] = challenge
            with pytest.raises(MCPError) as caught:
                await client.call_tool("tracker__echo", {})
            assert await place.status() == status
            del place.upstream.refuses[GIVEN]
            await place.give(caught.value.error.data["url"])
            assert await place.status() == "active"
            assert (await client.call_tool("tracker__echo", {})).content[0].text.startswith(GIVEN)


async def test_the_form_says_what_is_wrong_and_repeats_no_secret(place: Place) -> None:
    browser = PageBrowser(place.api.http)
    page = await place.form(browser, await place.link())
    assert page.status == 200
    assert set(page.form.fields) == {"csrf", "field.user", "field.token"}
    assert '<input type="password"' in page.text
    assert "Login &lt;b&gt;" in page.text
    assert "<b>" not in page.text
    assert 'href="https://tracker.example/?a=1&amp;b=2" rel="noopener noreferrer"' in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy
    wrong = await browser.submit(page, **{"field.user": "Ann<", "field.token": TOKEN})
    assert wrong.status == 422
    assert "does not look like what is asked for" in wrong.text
    assert 'aria-describedby="field-user-wrong"' in wrong.text
    assert 'value="Ann&lt;"' in wrong.text
    refused = await browser.submit(wrong, **{"field.user": "ann", "field.token": BAD})
    assert refused.status == 422
    assert "HTTP 401" in refused.text
    assert await place.status() == "missing"
    done = await browser.submit(refused, **{"field.user": "ann", "field.token": TOKEN})
    assert "is connected to tracker" in done.text
    for shown in (wrong, refused, done):
        assert TOKEN not in shown.text
        assert BAD not in shown.text


async def test_a_form_counts_from_its_page_and_its_user_alone(place: Place) -> None:
    browser = PageBrowser(place.api.http)
    url = await place.link()
    page = await place.form(browser, url)
    values = {"field.user": "ann", "field.token": TOKEN}
    for fields in ({**page.form.fields, **values, "csrf": ""}, values):
        assert (await browser.post(page.form.action, fields)).status == 403
    browser.site = "cross-site"
    assert (await browser.submit(page, **values)).status == 403
    stranger = PageBrowser(place.api.http)
    assert (await stranger.post(page.form.action, {**page.form.fields, **values})).status == 403
    other = await place.form(stranger, url, "eve")
    assert "somebody else" in other.text
    assert (await stranger.post(page.form.action, {**page.form.fields, **values})).status == 403
    assert (await place.status(), await place.status("eve")) == ("missing", "missing")
    assert place.upstream.seen == []
