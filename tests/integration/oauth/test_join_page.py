"""The page behind an invitation's link under attack: what opening it does, and for whom a form counts."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import structlog

from agentapi._core import Keyring
from agentapi.oauth.connect.browser import Browsers
from agentapi.principal import OrgId, Role
from agentapi.tenancy.invitations.text import write_token
from integration.api.conftest import api, gateway, http, issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import PUBLIC_URL, Api
from integration.api.test_organizations import INVITATIONS, MEMBERS, ORGANIZATIONS, decide, me
from support.page_browser import PageBrowser
from tenants import make_tenant

if TYPE_CHECKING:
    import asyncpg

    from agentapi.storage.database import Database
    from support.page_browser import Page

EVIL = "https://evil.example"
OWN, SESSION = "__Host-agentapi-oauth", "__Host-agentapi-session"
NOT_GOOD = "This link is not good"


@dataclass
class Inviting:
    """An organisation whose admin, alice, invites people, and browsers to follow the links with."""

    api: Api
    links: dict[str, str] = field(default_factory=dict)
    """Ids of invitations by link."""

    @property
    def slug(self) -> str:
        return self.api.tenant.principal.org_slug

    @property
    def mcp_url(self) -> str:
        return f"{PUBLIC_URL}/mcp/{self.slug}/main"

    async def link(self, **given: Any) -> str:
        answer = await self.api.caller().request("POST", INVITATIONS, json=given)
        assert answer.status_code == 201, answer.text
        document = answer.json()
        assert document["accept_url"] == f"{PUBLIC_URL}/join/{document['token']}"
        self.links[document["accept_url"]] = document["id"]
        return str(document["accept_url"])

    async def withdraw(self, url: str) -> None:
        answer = await self.api.caller().request("DELETE", f"{INVITATIONS}/{self.links[url]}")
        assert answer.status_code == 204, answer.text

    def browser(self) -> PageBrowser:
        return PageBrowser(self.api.http)

    def token(self, subject: str) -> str:
        return self.api.caller(Role.MEMBER, subject).token

    async def sign_in(self, browser: PageBrowser, url: str, subject: str = "mia") -> Page:
        """Open a link and show a token; return the page after that."""
        page = await browser.get(url)
        assert page.status == 200, page.text
        return await browser.submit(page, token=self.token(subject))

    async def accept(self, browser: PageBrowser, page: Page) -> Page:
        """Press the first button."""
        return await browser.post(page.forms[0].action, page.forms[0].fields)

    async def roles(self) -> dict[str, str]:
        """Return the members' roles by subject, as the admin sees them."""
        answer = await self.api.caller().request("GET", MEMBERS)
        assert answer.status_code == 200, answer.text
        return {item["subject"]: item["role"] for item in answer.json()["items"]}


@pytest.fixture
def place(api: Api) -> Inviting:  # noqa: F811
    return Inviting(api)


def path_of(url: str) -> str:
    assert url.startswith(f"{PUBLIC_URL}/join/agi_")
    return urlsplit(url).path


async def test_an_invited_person_reads_who_invites_them_signs_in_and_joins(place: Inviting) -> None:
    browser, url = place.browser(), await place.link(role="viewer")
    first = await browser.get(url)
    for told in ("alice", "invites you", f"Test ({place.slug})", "as a viewer"):
        assert told in first.text
    page = await browser.submit(first, token=place.token("mia"))
    assert page.status == 200
    for told in ("You are signed in as mia", "alice", f"Test ({place.slug})", "a viewer"):
        assert told in page.text
    assert [form.action for form in page.forms] == [path_of(url), f"{path_of(url)}/sign-out"]
    assert "mia" not in await place.roles()
    done = await place.accept(browser, page)
    assert (done.status, done.path) == (200, path_of(url))
    assert f"<li><code>{place.mcp_url}</code></li>" in done.text
    assert "and are a viewer of Test" in done.text
    assert done.forms == []
    assert (await place.roles())["mia"] == "viewer"
    # Loaded again it says the same, and accepts nothing again.
    assert (await browser.get(url)).text == done.text


async def test_opening_a_link_accepts_nothing(place: Inviting) -> None:
    """Mail servers and messengers open links before people do; some of them with the person's cookies."""
    browser, url = place.browser(), await place.link()
    await place.sign_in(browser, url)
    for method in ("GET", "HEAD", "OPTIONS"):
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        for query in ("", "?accept=1", f"?csrf={(await browser.get(url)).forms[0].fields['csrf']}"):
            answer = await place.api.http.request(method, url + query, headers={"Cookie": cookies})
            assert answer.status_code in {200, 204, 405}
    assert "mia" not in await place.roles()
    assert (await place.accept(browser, await browser.get(url))).status == 200


async def test_links_that_are_not_good_are_told_apart_by_nobody(
    place: Inviting,
    database: Database,
    superuser: asyncpg.Connection[Any],
) -> None:
    used, withdrawn, expired = await place.link(), await place.link(), await place.link()
    mia = place.browser()
    await place.accept(mia, await place.sign_in(mia, used))
    await place.withdraw(withdrawn)
    suspended = Inviting(Api(place.api.http, place.api.issuer, await make_tenant(database)))
    of_suspended = await suspended.link()
    assert (await decide(suspended.api, suspended=True)).status_code == 200
    gone = Inviting(Api(place.api.http, place.api.issuer, await make_tenant(database)))
    of_gone = await gone.link()
    root = gone.api.caller(Role.PLATFORM_ADMIN, "root")
    assert (await root.request("DELETE", f"/api/v1/platform/organizations/{gone.slug}")).status_code == 204
    org_id = place.api.tenant.principal.org_id
    unknown, elsewhere = (f"{PUBLIC_URL}/join/{write_token(of)}" for of in (org_id, OrgId(uuid4())))
    links = [used, withdrawn, expired, of_suspended, of_gone, unknown, elsewhere, unknown[:-1], f"{PUBLIC_URL}/join/x"]
    stranger, signed_in = place.browser(), place.browser()
    # Somebody who is known, and a member of nothing.
    by = await place.link()
    assert (await place.sign_in(signed_in, by, "noah")).status == 200
    await place.withdraw(by)
    # Last, since whoever invites sweeps away what has expired.
    ended = "UPDATE invitations SET expires_at = now() - interval '1 s' WHERE id = $1"
    assert await superuser.execute(ended, place.links[expired]) == "UPDATE 1"
    seen = set()
    for url in links:
        for browser in (stranger, signed_in):
            page = await browser.get(url)
            told = {name: value for name, value in page.headers.items() if name not in {"set-cookie", "x-request-id"}}
            seen.add((page.status, page.text, tuple(sorted(told.items()))))
            assert page.forms == []
    ((status, text, _),) = seen
    assert status == 404
    assert NOT_GOOD in text
    for secret in (place.slug, suspended.slug, gone.slug, "Test", "alice", str(org_id), org_id.hex):
        assert secret not in text


@pytest.mark.parametrize("made_so", ["withdrawn", "suspended"])
async def test_a_link_that_ends_while_its_page_is_open_admits_nobody(place: Inviting, made_so: str) -> None:
    browser, url = place.browser(), await place.link()
    page = await place.sign_in(browser, url)
    if made_so == "withdrawn":
        await place.withdraw(url)
    else:
        assert (await decide(place.api, suspended=True)).status_code == 200
    refused = await place.accept(browser, page)
    assert refused.status in {403, 404}
    assert place.slug not in refused.text
    if made_so == "suspended":
        assert (await decide(place.api, suspended=False)).status_code == 200
    assert "mia" not in await place.roles()


async def test_of_two_who_accept_at_once_one_is_let_in(place: Inviting) -> None:
    url = await place.link()
    people = {f"guest-{number}": place.browser() for number in range(4)}
    pages = [await place.sign_in(browser, url, subject) for subject, browser in people.items()]
    raced = zip(people.values(), pages, strict=True)
    done = await asyncio.gather(*(place.accept(browser, page) for browser, page in raced))
    assert sorted(page.status for page in done) == [200, 404, 404, 404]
    assert len(people.keys() & (await place.roles()).keys()) == 1
    assert all(NOT_GOOD in page.text for page in done if page.status == 404)


async def test_a_form_that_is_sent_twice_is_no_failure_for_who_sent_it_and_lets_nobody_else_in(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    page = await place.sign_in(browser, url)
    twice = await asyncio.gather(place.accept(browser, page), place.accept(browser, page))
    assert [each.status for each in twice] == [200, 200]
    assert all(place.mcp_url in each.text for each in twice)
    removed = await place.api.caller().request("DELETE", f"{MEMBERS}/{me('mia')}")
    assert removed.status_code == 204
    replayed = await place.accept(browser, page)
    assert replayed.status == 404
    assert "mia" not in await place.roles()


async def test_a_used_link_tells_its_next_reader_nothing(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    await place.accept(browser, await place.sign_in(browser, url))
    page = await place.browser().get(url)
    assert page.status == 404
    assert "mia" not in page.text
    assert place.slug not in page.text


async def test_an_invitation_for_somebody_else_is_refused_and_stays_good(place: Inviting) -> None:
    url = await place.link(subject="carol", role="org_admin")
    browser = place.browser()
    assert "alice invites carol to Test" in (await browser.get(url)).text
    page = await place.sign_in(browser, url, "mallory")
    assert page.status == 403
    assert "You are signed in as mallory, and the invitation is for carol" in page.text
    assert page.form.action.endswith("/sign-out")
    forced = await browser.post(path_of(url), page.form.fields)
    assert forced.status == 403
    assert "mallory" not in await place.roles()
    again = await browser.submit(page)
    assert SESSION not in browser.cookies
    done = await place.accept(browser, await browser.submit(again, token=place.token("carol")))
    assert done.status == 200
    assert (await place.roles())["carol"] == "org_admin"


async def test_an_address_that_the_token_does_not_carry_is_not_shown_to_be_anybodys(place: Inviting) -> None:
    url = await place.link(email="dave@example.com")
    page = await place.sign_in(place.browser(), url, "dave@example.com")
    assert page.status == 403
    assert "the invitation is for dave@example.com" in page.text


async def test_a_person_of_another_organisation_is_refused(place: Inviting, database: Database) -> None:
    elsewhere = Inviting(Api(place.api.http, place.api.issuer, await make_tenant(database)))
    browser, url = place.browser(), await place.link()
    page = await browser.submit(await browser.get(url), token=elsewhere.token("mia"))
    assert page.status == 403
    assert f"does not name the organisation {place.slug}" in page.text
    assert (await browser.post(path_of(url), page.form.fields)).status == 403
    for each in (place, elsewhere):
        assert "mia" not in await each.roles()


async def test_who_is_a_member_already_reads_what_accepting_would_change(place: Inviting) -> None:
    await place.api.caller(Role.MEMBER, "mia").request("GET", ORGANIZATIONS)
    browser, url = place.browser(), await place.link(role="viewer")
    page = await place.sign_in(browser, url)
    assert "You are a member there now, and would be a viewer instead" in page.text
    assert (await place.accept(browser, page)).status == 200
    assert (await place.roles())["mia"] == "viewer"


async def test_the_last_admin_cannot_be_invited_away(place: Inviting) -> None:
    url = await place.link(role="viewer")
    browser = place.browser()
    page = await browser.submit(await browser.get(url), token=place.api.caller().token)
    refused = await place.accept(browser, page)
    assert refused.status == 409
    assert "would have no admin" in refused.text
    assert (await place.roles())["alice"] == "org_admin"


async def test_a_full_organisation_says_so_and_the_link_stays_good(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    page = await place.sign_in(browser, url)
    assert (await decide(place.api, max_members=1)).status_code == 200
    refused = await place.accept(browser, page)
    assert (refused.status, refused.forms) == (409, [])
    assert (await decide(place.api, max_members=None)).status_code == 200
    assert (await place.accept(browser, await browser.get(url))).status == 200


@pytest.mark.parametrize("step", ["", "/sign-in", "/sign-out"])
async def test_a_form_counts_in_the_browser_and_for_the_link_that_it_was_made_for(
    place: Inviting,
    step: str,
    keyring: str,  # noqa: F811
) -> None:
    url, other_url = await place.link(), await place.link()
    victim, attacker = place.browser(), place.browser()
    if step != "/sign-in":
        await place.sign_in(victim, url)
    own = (await victim.get(url)).forms[0].fields["csrf"]
    foreign = (await attacker.get(url)).forms[0].fields["csrf"]
    of_other_link = (await victim.get(other_url)).forms[0].fields["csrf"]
    token = urlsplit(url).path.rpartition("/")[2]
    old = Browsers(Keyring.parse(keyring), lambda: datetime.now(UTC) - timedelta(seconds=601))
    too_old = old.form_token(victim.cookies[OWN], token)
    path, sent = f"{path_of(url)}{step}", {"token": place.token("mia")}
    before = dict(victim.cookies)
    for csrf in (None, "", "x", foreign, of_other_link, too_old, own[:-2]):
        page = await victim.post(path, sent if csrf is None else {"csrf": csrf, **sent})
        assert page.status == 403, (step, csrf)
        assert place.slug not in page.text
    victim.site = "cross-site"
    assert (await victim.post(path, {"csrf": own, **sent})).status == 403
    victim.site = "same-origin"
    assert victim.cookies == before
    assert (await place.browser().post(path, {"csrf": own, **sent})).status == 403
    as_text = await victim.post(path, {"csrf": own, **sent}, **{"Content-Type": "text/plain"})
    assert as_text.status == 415
    assert "mia" not in await place.roles()


async def test_a_form_without_somebody_signed_in_accepts_nothing(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    page = await browser.get(url)
    refused = await browser.post(path_of(url), page.form.fields)
    assert refused.status == 403
    assert "not signed in" in refused.text
    other = place.browser()
    await place.sign_in(other, url)
    # A cookie that was changed is none.
    browser.cookies[SESSION] = other.cookies[SESSION][:-4] + "AAAA"
    assert (await browser.post(path_of(url), page.form.fields)).status == 403
    assert "mia" not in await place.roles()


async def test_a_token_that_is_not_good_here_signs_nobody_in(place: Inviting) -> None:
    url = await place.link()
    for_workspace = place.api.issuer.mint(
        subject="mia", audiences=[place.mcp_url], organization=place.slug, role=Role.MEMBER, lifetime_s=600
    )
    of_nobody = place.api.issuer.mint(
        subject="mia", audiences=[PUBLIC_URL], organization="nobody-has-this", role=Role.MEMBER, lifetime_s=600
    )
    for token in ("", "xyzzy", for_workspace, of_nobody, place.token("mia")[:-3], "a\r\nb", "agentapi_x"):
        browser = place.browser()
        page = await browser.submit(await browser.get(url), token=token)
        assert page.status in {403, 404}, token
        assert SESSION not in browser.cookies
        assert not token or token not in page.text
        assert 'role="alert"' in page.text
        again = await browser.submit(page, token=place.token("mia"))
        assert again.status == 200
        assert "You are signed in as mia" in again.text


async def test_no_address_of_the_request_leads_anywhere(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    asked = f"{url}?return_to={EVIL}&next=//evil.example&redirect_uri={EVIL}"
    page = await browser.get(asked)
    page = await browser.submit(page, token=place.token("mia"), return_to=EVIL, next=EVIL)
    assert page.path == path_of(url)
    fields = {**page.forms[0].fields, "return_to": EVIL, "issuer": EVIL}
    done = await browser.post(page.forms[0].action, fields)
    assert (done.status, done.path, done.goes_on) == (200, path_of(url), None)
    assert "evil" not in page.text + done.text


async def test_an_issuer_that_the_settings_do_not_name_is_asked_nothing(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    page = await browser.submit(await browser.get(url), issuer=EVIL)
    assert page.goes_on is None
    assert page.status == 403
    assert "evil" not in page.text


async def test_what_an_organisation_is_called_is_text(place: Inviting) -> None:
    name = '<b title="x">&<script>alert(1)</script>'
    id_, alice = place.api.tenant.principal.org_id, place.api.caller()
    body = {"slug": place.slug, "name": name, "join_rule": "token"}
    assert (await alice.request("PUT", f"{ORGANIZATIONS}/{id_}", json=body)).status_code == 200
    browser, url = place.browser(), await place.link()
    first = await browser.get(url)
    second = await browser.submit(first, token=place.token("mia"))
    for page in (first, second, await place.accept(browser, second)):
        assert page.status == 200
        assert "<b" not in re.sub("<b(ody|utton)", "", page.text)
        assert "<script" not in page.text
        assert "&lt;b title=&quot;x&quot;&gt;&amp;" in page.text


async def test_pages_run_nothing_are_framed_by_nobody_and_tell_no_other_site_the_link(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    first = await browser.get(url)
    bound = await place.sign_in(place.browser(), await place.link(subject="carol"), "mallory")
    second = await browser.submit(first, token=place.token("mia"))
    third = await place.accept(browser, second)
    gone = await place.browser().get(url)
    failed = await browser.post(path_of(url), {})
    for page in (first, bound, second, third, gone, failed):
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert ("form-action 'self'" if page.forms else "form-action 'none'") in policy
        assert (page.headers["x-frame-options"], page.headers["cache-control"]) == ("DENY", "no-store")
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "<script" not in page.text
        assert "style=" not in page.text
        assert '<html lang="en">' in page.text
        assert page.text.count("<h1>") == page.text.count("<main>") == 1
        assert "http-equiv" not in page.text
    assert '<label for="token">' in first.text
    # The redirect that follows a form says so too, and the cookies are of this origin alone.
    fields = "&".join(f"{name}={value}" for name, value in second.forms[1].fields.items())
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"}
    answer = await place.api.http.post(second.forms[1].action, content=fields, headers=headers)
    assert (answer.status_code, answer.headers["referrer-policy"]) == (303, "no-referrer")
    for cookie in answer.headers.get_list("set-cookie"):
        assert cookie.startswith("__Host-")
        assert all(mark in cookie for mark in ("HttpOnly", "Secure", "SameSite=lax"))


async def test_no_log_line_has_the_token_of_a_link(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    token = path_of(url).rpartition("/")[2]
    with structlog.testing.capture_logs() as logs:
        page = await place.sign_in(browser, url)
        await browser.post(path_of(url), {})
        await place.accept(browser, page)
        await browser.get(url)
    assert {entry.get("path") for entry in logs} >= {"/join/{token}", "/join/{token}/sign-in"}
    assert token not in str(logs)
    assert token[-64:] not in str(logs)


async def test_the_audit_log_says_who_joined_and_not_by_which_token(place: Inviting) -> None:
    browser, url = place.browser(), await place.link(role="viewer")
    await place.accept(browser, await place.sign_in(browser, url))
    answer = await place.api.caller().request("GET", "/api/v1/audit", params={"action": "invitation.accepted"})
    (row,) = answer.json()["items"]
    assert row["actor_id"] == me("mia")
    assert row["details"] == {"role": "viewer"}
    assert path_of(url).rpartition("/")[2] not in answer.text


async def test_programs_accept_over_the_api_as_before(place: Inviting) -> None:
    token = path_of(await place.link()).rpartition("/")[2]
    mia = place.api.caller(Role.MEMBER, "mia")
    answer = await mia.request("POST", f"{INVITATIONS}/accept", json={"token": token})
    assert (answer.status_code, answer.json()["role"]) == (200, "member")
