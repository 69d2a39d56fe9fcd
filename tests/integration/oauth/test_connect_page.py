"""The connect page under attack: who may follow a link, and what a form counts for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
from starlette.responses import Response

from agentapi._core import Keyring
from agentapi.oauth.connect.browser import Browsers, SignedIn
from agentapi.oauth.connect.tickets import Tickets
from agentapi.principal import Principal, Role, UpstreamId
from agentapi.tenancy.admission import Admission
from agentapi.tenancy.models import Claimant, user_id_of
from integration.api.conftest import api, gateway, http, issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import ISSUER, PUBLIC_URL, Api, served
from integration.oauth.connecting import Connecting, connecting, path_of
from tenants import make_tenant
from unit.oauth.sites import Site, server_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette

    from agentapi.storage.database import Database
    from support.page_browser import Page

EVIL = "https://evil.example"
OWN, SESSION = "__Host-agentapi-oauth", "__Host-agentapi-session"


@pytest.fixture
async def place(gateway: Starlette, api: Api) -> AsyncIterator[Connecting]:  # noqa: F811
    async with connecting(gateway, api) as made:
        yield made


def began_nothing(place: Connecting, page: Page) -> None:
    """Nobody was sent on, and no authorization server was looked for."""
    assert page.goes_on is None
    assert place.site.registrations == 0


async def test_the_one_who_asked_is_told_what_is_about_to_happen(place: Connecting) -> None:
    browser = place.browser()
    page = await place.sign_in(browser, await place.link())
    assert page.status == 200
    for told in ("mia", "tracker", "If you did not make such a call"):
        assert told in page.text
    began_nothing(place, page)


async def test_the_page_names_the_hosts_of_the_upstream_and_of_its_authorization_server(place: Connecting) -> None:
    """A hostile upstream may name another's authorization server; who reads the page sees that they do not match."""
    other = Site()
    async with served(other) as url:
        other.url = url
        other.answers = {"/.well-known/oauth-authorization-server": lambda _: server_metadata(url)}
        place.site.answers["/.well-known/oauth-protected-resource/mcp"] = lambda _: {
            "resource": f"{place.site.url}/mcp",
            "authorization_servers": [url],
        }
        page = await place.sign_in(place.browser(), await place.link())
    assert f"a server at {urlsplit(place.site.url).netloc}." in page.text
    assert f"asked for it at {urlsplit(url).netloc}" in page.text
    began_nothing(place, page)
    assert "/register" not in other.paths()


async def test_another_user_who_opens_the_link_is_refused(place: Connecting) -> None:
    browser, url = place.browser(), await place.link()
    page = await place.sign_in(browser, url, "noah")
    assert page.status == 403
    assert "for somebody else" in page.text
    assert page.form.action.endswith("/sign-out")
    began_nothing(place, page)
    forced = await browser.post(path_of(url), page.form.fields)
    assert forced.status == 403
    began_nothing(place, forced)


async def test_a_link_is_of_no_use_once_the_membership_has_ended(place: Connecting) -> None:
    browser, url = place.browser(), await place.link()
    page = await place.sign_in(browser, url)
    assert page.status == 200
    removed = await place.api.caller().request("DELETE", f"/api/v1/members/{_mia(place).user_id}")
    assert removed.status_code == 204, removed.text
    for refused in (await browser.get(url), await browser.submit(page)):
        assert refused.status == 403
        assert "membership in the organisation has ended" in refused.text
        began_nothing(place, refused)


async def test_the_role_that_counts_is_that_of_the_visit(place: Connecting, database: Database) -> None:
    browser, url = place.browser(), await place.link()
    await place.sign_in(browser, url)
    mia = _mia(place)
    assigned = await place.api.caller().request("PUT", f"/api/v1/members/{mia.user_id}", json={"role": "viewer"})
    assert assigned.is_success, assigned.text
    assert (await Admission(database, clock=time.monotonic).again(mia)).role is Role.VIEWER
    assert (await browser.get(url)).status == 200


async def test_whoever_is_signed_in_as_somebody_else_can_sign_in_anew(place: Connecting) -> None:
    browser, url = place.browser(), await place.link()
    other = await place.sign_in(browser, url, "noah")
    again = await browser.submit(other)
    assert "Sign in" in again.text
    assert SESSION not in browser.cookies
    page = await browser.submit(again, token=place.token("mia"))
    assert page.status == 200
    assert (await browser.submit(page)).goes_on is not None


async def test_a_link_leads_nowhere_once_it_has_led_to_a_connection(
    place: Connecting,
    keyring: str,  # noqa: F811
) -> None:
    browser, url = place.browser(), await place.link()
    await place.connect(url, browser=browser)
    registrations = place.site.registrations
    again = await browser.get(url)
    assert "is connected to tracker" in again.text
    assert again.forms == []
    token = Browsers(Keyring.parse(keyring), lambda: datetime.now(UTC)).form_token(
        browser.cookies[OWN], path_of(url).rpartition("/")[2]
    )
    replayed = await browser.post(path_of(url), {"csrf": token})
    assert replayed.goes_on is None
    assert place.site.registrations == registrations


async def test_a_person_of_another_organisation_is_somebody_else(place: Connecting, database: Database) -> None:
    elsewhere = Api(place.api.http, place.api.issuer, await make_tenant(database))
    url = await place.link()
    browser = place.browser()
    page = await browser.get(url)
    # The same person, of the same issuer, with a token for the other organisation.
    refused = await browser.submit(page, token=elsewhere.caller(Role.MEMBER, "mia").token)
    assert refused.status == 403
    assert "for somebody else" in refused.text
    began_nothing(place, refused)


async def test_a_link_to_another_organisations_upstream_finds_nothing(
    place: Connecting,
    database: Database,
    keyring: str,  # noqa: F811
) -> None:
    elsewhere = Api(place.api.http, place.api.issuer, await make_tenant(database))
    foreign = await elsewhere.caller().created(name="foreign", endpoint=f"{place.site.url}/mcp", auth="oauth")
    mia = _mia(place)
    url = _tickets(keyring).url(mia, UpstreamId(UUID(foreign["id"])), workspace="main")
    page = await place.sign_in(place.browser(), url)
    assert page.status == 404
    began_nothing(place, page)


async def test_an_old_link_is_none(place: Connecting, keyring: str) -> None:  # noqa: F811
    past = Tickets(
        Keyring.parse(keyring), public_url=PUBLIC_URL, clock=lambda: datetime.now(UTC) - timedelta(seconds=1801)
    )
    page = await place.browser().get(past.url(_mia(place), UpstreamId(uuid4()), workspace="main"))
    assert page.status == 404
    assert page.forms == []


async def test_a_link_that_was_not_made_here_is_none(place: Connecting) -> None:
    good = await place.link()
    stranger = _tickets(Keyring.generate("k1")).url(_mia(place), UpstreamId(uuid4()))
    last = "A" if good[-8] != "A" else "B"
    changed = good[:-8] + last + good[-7:]
    for url in (changed, good[:-4], stranger, f"{PUBLIC_URL}/connect/x", f"{PUBLIC_URL}/connect/{'A' * 5000}"):
        page = await place.browser().get(url)
        assert page.status == 404, url
        assert page.forms == []


async def test_no_address_of_the_request_leads_anywhere(place: Connecting) -> None:
    browser, url = place.browser(), await place.link()
    asked = f"{url}?return_to={EVIL}&next=//evil.example&redirect_uri={EVIL}"
    page = await browser.get(asked)
    page = await browser.submit(page, token=place.token(), return_to=EVIL, next=EVIL)
    page = await browser.submit(page, return_to=EVIL, redirect_uri=EVIL)
    assert page.goes_on is not None
    assert page.goes_on.startswith(place.site.url)
    assert "evil" not in page.text + page.goes_on
    done = await place.agree(browser, page.goes_on)
    assert done.status == 200
    assert "evil" not in done.text


async def test_the_cookie_of_another_person_makes_nobody_the_one_who_asked(place: Connecting) -> None:
    noahs, url = place.browser(), await place.link()
    await place.sign_in(noahs, await place.link("noah"), "noah")
    browser = place.browser()
    await browser.get(url)
    browser.cookies[SESSION] = noahs.cookies[SESSION]
    assert (await browser.get(url)).status == 403


async def test_a_cookie_that_was_not_sealed_here_is_none(place: Connecting, keyring: str) -> None:  # noqa: F811
    url = await place.link()
    who = SignedIn(Claimant(ISSUER, "mia", None, None))
    for browsers in (
        Browsers(Keyring.parse(Keyring.generate("k1")), lambda: datetime.now(UTC)),
        Browsers(Keyring.parse(keyring), lambda: datetime.now(UTC) - timedelta(seconds=601)),
    ):
        made = Response()
        browsers.sign_in(made, who)
        browser = place.browser()
        browser.cookies[SESSION] = made.headers["set-cookie"].partition(";")[0].partition("=")[2]
        page = await browser.get(url)
        assert page.form.action.endswith("/sign-in")


@pytest.mark.parametrize("step", ["", "/sign-in", "/sign-out"])
async def test_a_form_counts_in_the_browser_and_for_the_link_that_it_was_made_for(place: Connecting, step: str) -> None:
    url, other_url = await place.link(), await place.link()
    victim, attacker = place.browser(), place.browser()
    if step != "/sign-in":
        await place.sign_in(victim, url)
    own = (await victim.get(url)).form.fields["csrf"]
    foreign = (await attacker.get(url)).form.fields["csrf"]
    of_other_link = (await victim.get(other_url)).form.fields["csrf"]
    path = f"{path_of(url)}{step}"
    token = {"token": place.token()}
    before = dict(victim.cookies)
    for csrf in (None, "", "x", foreign, of_other_link, own[:-2]):
        fields = token if csrf is None else {"csrf": csrf, **token}
        page = await victim.post(path, fields)
        assert page.status == 403, (step, csrf)
        began_nothing(place, page)
    victim.site = "cross-site"
    assert (await victim.post(path, {"csrf": own, **token})).status == 403
    victim.site = "same-origin"
    assert victim.cookies == before
    bare = place.browser()
    assert (await bare.post(path, {"csrf": own, **token})).status == 403


async def test_a_form_of_another_kind_is_not_read(place: Connecting) -> None:
    browser, url = place.browser(), await place.link()
    page = await browser.get(url)
    body = {**page.form.fields, "token": place.token()}
    answer = await browser.post(page.form.action, body, **{"Content-Type": "text/plain"})
    assert answer.status == 415
    assert SESSION not in browser.cookies


async def test_a_token_that_is_not_good_here_signs_nobody_in(place: Connecting) -> None:
    url = await place.link()
    api = place.api  # noqa: F811
    minted = api.issuer.mint(
        subject="mia",
        audiences=["https://elsewhere.example"],
        organization=api.tenant.principal.org_slug,
        role=Role.MEMBER,
        lifetime_s=600,
    )
    for token in ("", "xyzzy", minted, place.token()[:-3], "a\r\nb", "ä" * 10):
        browser = place.browser()
        page = await browser.submit(await browser.get(url), token=token)
        assert page.status == 403, token
        assert SESSION not in browser.cookies
        assert not token or token not in page.text
        # The form is there again, says what was wrong, and takes a better one.
        assert 'role="alert">This token is not good here' in page.text
        again = await browser.submit(page, token=place.token())
        assert again.status == 200
        assert SESSION in browser.cookies


@pytest.mark.parametrize("prefix", ["Bearer ", "bearer  ", "\nBEARER\t"])
async def test_a_token_is_taken_with_the_scheme_that_was_copied_along(place: Connecting, prefix: str) -> None:
    browser, url = place.browser(), await place.link()
    page = await browser.submit(await browser.get(url), token=prefix + place.token())
    assert page.status == 200
    assert "You are signed in as mia" in page.text


async def test_pages_run_nothing_are_framed_by_nobody_and_post_to_the_gateway_alone(place: Connecting) -> None:
    browser, url = place.browser(), await place.link()
    first = await browser.get(url)
    second = await browser.submit(first, token=place.token())
    third = await browser.submit(second)
    other = await place.sign_in(place.browser(), url, "noah")
    for page in (first, second, third, other):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy or not page.forms
        assert (page.headers["x-frame-options"], page.headers["cache-control"]) == ("DENY", "no-store")
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "<script" not in page.text
        assert "style=" not in page.text
        assert '<html lang="en">' in page.text
        assert page.text.count("<h1>") == page.text.count("<main>") == 1
    assert '<label for="token">' in first.text


async def test_the_link_that_init_gives_leads_to_the_same_page(place: Connecting) -> None:
    upstream = (await place.api.caller().page()).json()["items"][0]["id"]
    member = place.api.caller(Role.MEMBER, "mia")
    begun = await member.request("POST", "/api/v1/mcp/oauth/init", json={"upstream": upstream})
    await place.connect(begun.json()["connect_url"])


def _tickets(keyring: str) -> Tickets:  # noqa: F811
    return Tickets(Keyring.parse(keyring), public_url=PUBLIC_URL, clock=lambda: datetime.now(UTC))


def _mia(place: Connecting) -> Principal:
    owner = place.api.tenant.principal
    return Principal(user_id_of(ISSUER, "mia"), owner.org_id, owner.org_slug, Role.MEMBER, ISSUER, "mia")
