"""Sign-in at an issuer before an invitation is accepted, and for whom what the issuer says is good enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from joserfc.jwk import ECKey

from agentapi.identity.token_issuer import TokenIssuer
from agentapi.principal import Role
from agentapi.settings import IssuerSettings
from integration.api.conftest import issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import PUBLIC_URL, Api, lifespan_of, settings_for
from integration.api.test_organizations import INVITATIONS
from integration.oauth.test_join_page import SESSION, Inviting, path_of
from integration.oauth.test_sign_in import closed, desk  # noqa: F401 - fixtures
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from integration.oauth.connecting import Connecting
    from integration.oauth.test_sign_in import Desk

PORTAL = "https://portal.example"
PORTALS = TokenIssuer(PORTAL, ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True))


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


@pytest.fixture
async def mixed(
    postgres: EmbeddedPostgres,
    database: Database,
    issuer: TokenIssuer,  # noqa: F811
    keyring: str,  # noqa: F811
    state_dir: Path,  # noqa: F811
) -> AsyncIterator[Inviting]:
    """A gateway of three issuers: one to sign in at, one of tokens, and one that speaks for somebody else alone."""
    tenant = await make_tenant(database)
    common = {"audiences": [PUBLIC_URL], "jwks": issuer.key_set()}
    portal = {"audiences": [PUBLIC_URL], "jwks": PORTALS.key_set()}
    client = {"client_id": "gateway", "client_secret": "secret"}
    others = {"organization_pointer": None, "organization": "somebody-elses"}
    accepted = (
        {**common, "issuer": issuer.issuer, "required_scopes": ["mcp"]},
        {**portal, "issuer": PORTAL, "sign_in": client},
        {**common, "issuer": "https://big-customer.example", "sign_in": client, "claims": others},
    )
    settings = settings_for(postgres, issuer, keyring, state_dir)
    update = {"issuers": tuple(IssuerSettings.model_validate(each) for each in accepted)}
    async with lifespan_of(settings.model_copy(update=update)) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client_:
            yield Inviting(Api(client_, issuer, tenant))


async def test_each_issuer_that_may_name_the_organisation_is_offered_and_no_other(
    mixed: Inviting,
) -> None:
    admin = mixed.api.caller(scopes=("mcp",))
    url = (await admin.request("POST", INVITATIONS, json={})).json()["accept_url"]
    browser = mixed.browser()
    page = await browser.get(url)
    at_portal, by_token = page.forms
    assert at_portal.fields["issuer"] == PORTAL
    assert "Sign in at portal.example" in page.text
    assert "big-customer" not in page.text
    # One of whoever can sign in, and one without the scope that its issuer's tokens must carry.
    for token in (Api(mixed.api.http, PORTALS, mixed.api.tenant).caller().token, mixed.token("mia")):
        refused = await browser.post(by_token.action, {**by_token.fields, "token": token})
        assert refused.status == 403
        assert SESSION not in browser.cookies
    foreign = {"csrf": at_portal.fields["csrf"], "issuer": "https://big-customer.example"}
    assert (await browser.post(at_portal.action, foreign)).goes_on is None
    good = mixed.api.caller(Role.MEMBER, "mia", scopes=("mcp",)).token
    assert "signed in as mia" in (await browser.post(by_token.action, {**by_token.fields, "token": good})).text


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
