"""Sign-in at an issuer before an invitation is accepted, and for whom what the issuer says is good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from integration.api.conftest import issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.oauth.test_join_page import SESSION, Inviting, path_of
from integration.oauth.test_sign_in import closed, desk  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from integration.oauth.connecting import Connecting
    from integration.oauth.test_sign_in import Desk


@pytest.fixture
def place(desk: Desk) -> Inviting:  # noqa: F811
    made = Inviting(desk.place.api)
    desk.issuer.changes = {"organization": made.slug}
    return made


async def test_an_invited_person_signs_in_at_their_issuer_and_joins(desk: Desk, place: Inviting) -> None:  # noqa: F811
    browser, url = place.browser(), await place.link(email="Mia@Example.org", role="viewer")
    page = await desk.sign_in(browser, url, "mia")
    assert page.path == path_of(url)
    assert "You are signed in as mia@example.org" in page.text
    done = await place.accept(browser, page)
    assert done.status == 200
    assert place.mcp_url in done.text
    assert (await place.roles())["mia"] == "viewer"


async def test_the_issuer_is_told_nothing_of_the_link(desk: Desk, place: Inviting) -> None:  # noqa: F811
    url = await place.link()
    there = await desk.begun(place.browser(), url)
    token = path_of(url).rpartition("/")[2]
    assert token not in there
    assert there.startswith(desk.issuer.url)
    assert token not in str([(each.path, each.form) for each in desk.issuer.asked if each.path == "/token"])


async def test_another_address_is_somebody_else(desk: Desk, place: Inviting) -> None:  # noqa: F811
    browser, url = place.browser(), await place.link(email="dave@example.com")
    page = await desk.sign_in(browser, url, "mia")
    assert page.status == 403
    assert "signed in as mia@example.org, and the invitation is for dave@example.com" in page.text
    assert (await browser.post(path_of(url), page.form.fields)).status == 403
    assert "mia" not in await place.roles()


@pytest.mark.parametrize("verified", [False, "false"])
async def test_an_address_that_the_issuer_has_not_verified_is_nobodys(
    desk: Desk,  # noqa: F811
    place: Inviting,
    verified: bool | str,
) -> None:
    """Whoever may write any address into their account would otherwise be whomever they like."""
    desk.issuer.changes |= {"email": "dave@example.com", "email_verified": verified}
    browser, url = place.browser(), await place.link(email="dave@example.com")
    page = await desk.sign_in(browser, url, "mallory")
    assert page.status == 403
    assert "signed in as mallory, and the invitation is for dave@example.com" in page.text
    assert (await browser.post(path_of(url), page.form.fields)).status == 403
    assert "mallory" not in await place.roles()


@pytest.mark.parametrize("organization", [..., "somebody-elses"], ids=["none", "another"])
async def test_a_sign_in_that_does_not_name_the_organisation_is_not_enough(
    desk: Desk,  # noqa: F811
    place: Inviting,
    organization: Any,
) -> None:
    desk.issuer.changes = {"organization": organization}
    browser, url = place.browser(), await place.link()
    page = await desk.sign_in(browser, url, "mia")
    assert page.status == 403
    assert f"does not name the organisation {place.slug}" in page.text
    assert (await browser.post(path_of(url), page.form.fields)).status in {403, 404}
    assert "mia" not in await place.roles()


async def test_a_sign_in_cannot_be_put_upon_another_browser(desk: Desk, place: Inviting) -> None:  # noqa: F811
    attacker, victim, url = place.browser(), place.browser(), await place.link()
    there = await desk.begun(attacker, url)
    await victim.get(url)
    page = await desk.back(victim, there, "mallory")
    assert page.status == 403
    assert "Not signed in" in page.text
    assert SESSION not in victim.cookies


async def test_no_token_is_taken_where_people_sign_in(place: Inviting) -> None:
    browser, url = place.browser(), await place.link()
    first = await browser.get(url)
    assert "token" not in first.form.fields
    page = await browser.post(first.form.action, {"csrf": first.form.fields["csrf"], "token": place.token("mia")})
    assert page.goes_on is None
    assert SESSION not in browser.cookies


async def test_where_nobody_can_sign_in_the_page_says_what_an_administrator_has_to_do(
    closed: Connecting,  # noqa: F811
) -> None:
    place = Inviting(closed.api)
    browser, url = place.browser(), await place.link()
    page = await browser.get(url)
    assert page.status == 503
    assert page.forms == []
    for told in (closed.api.issuer.issuer, "AGENTAPI_ISSUERS", "AGENTAPI_CONNECT_WITH_TOKEN"):
        assert told in page.text
