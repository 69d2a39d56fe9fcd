"""Sign-in at the issuer of a person's tokens, before the connect page goes on; and the ways to deceive it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from agentapi._core import Keyring
from agentapi.identity.token_issuer import TokenIssuer
from agentapi.oauth.connect.browser import Browsers
from agentapi.settings import IssuerSettings
from integration.api.conftest import issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import PUBLIC_URL, Api, lifespan_of, served, settings_for
from integration.oauth.connecting import Connecting, connecting, path_of
from tenants import make_tenant
from unit.oauth.sites import Site, server_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres
    from support.page_browser import Page, PageBrowser
    from unit.oauth.sites import Asked

CLIENT = "browser-client"
SIGN_IN_COOKIE = "__Host-agentapi-sign-in"
SESSION = "__Host-agentapi-session"


def _key() -> ECKey:
    return ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)


@dataclass(slots=True)
class Issuer(Site):
    """An OpenID provider at which whoever a test names signs in."""

    key: ECKey = field(
        default_factory=lambda: ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
    )
    codes: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the claims of id tokens."""
    forger: ECKey | None = None

    def lay_down(self) -> None:
        self.answers = {
            "/.well-known/openid-configuration": lambda _: server_metadata(self.url, jwks_uri=f"{self.url}/jwks"),
            "/jwks": lambda _: KeySet([self.key]).as_dict(private=False),
            "/token": self._token,
        }

    def agree(self, authorization_url: str, subject: str) -> dict[str, str]:
        """Return what the browser of ``subject`` is sent back with."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(authorization_url).query).items()}
        assert asked["redirect_uri"] == f"{PUBLIC_URL}/connect/signed-in"
        assert "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(12)
        self.codes[code] = subject, asked
        return {"state": asked["state"], "code": code}

    def _token(self, asked: Asked) -> Response | dict[str, Any]:
        form = asked.form
        began = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if began is None or began[1]["code_challenge"] != challenge.rstrip("="):
            return JSONResponse({"error": "invalid_grant"}, 400)
        subject, authorization = began
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": subject,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": authorization["nonce"],
            "email": f"{subject}@example.org",
            **self.changes,
        }
        claims = {name: value for name, value in claims.items() if value is not ...}
        signed = jwt.encode(
            {"alg": "ES256", "kid": self.key.kid}, claims, self.forger or self.key, algorithms=["ES256"]
        )
        return {"access_token": "of-no-use", "token_type": "Bearer", "expires_in": 300, "id_token": signed}


@pytest.fixture
async def closed(
    postgres: EmbeddedPostgres,
    database: Database,
    issuer: TokenIssuer,  # noqa: F811
    keyring: str,  # noqa: F811
    state_dir: Path,  # noqa: F811
) -> AsyncIterator[Connecting]:
    """A gateway that knows no way for people to sign in."""
    settings = settings_for(postgres, issuer, keyring, state_dir, connect_with_token=False)
    async with lifespan_of(settings) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            api = Api(client, issuer, await make_tenant(database))
            async with connecting(app, api) as place:
                yield place


@dataclass
class Desk:
    """A gateway whose people sign in at an issuer of theirs."""

    place: Connecting
    issuer: Issuer

    async def begun(self, browser: PageBrowser, url: str) -> str:
        """Press the button; return where the issuer is."""
        page = await browser.get(url)
        assert "token" not in page.form.fields
        gone = await browser.submit(page)
        assert gone.goes_on is not None, gone.text
        return gone.goes_on

    async def back(self, browser: PageBrowser, there: str, subject: str, **changes: str) -> Page:
        given = {**self.issuer.agree(there, subject), **changes}
        return await browser.get(f"/connect/signed-in?{urlencode(given)}")

    async def sign_in(self, browser: PageBrowser, url: str, subject: str, **changes: str) -> Page:
        return await self.back(browser, await self.begun(browser, url), subject, **changes)


@pytest.fixture
async def desk(
    postgres: EmbeddedPostgres,
    database: Database,
    keyring: str,  # noqa: F811
    state_dir: Path,  # noqa: F811
) -> AsyncIterator[Desk]:
    site = Issuer()
    async with served(site) as url:
        site.url = url
        site.lay_down()
        tokens = TokenIssuer(url, site.key)
        settings = settings_for(postgres, tokens, keyring, state_dir)
        accepted = IssuerSettings.model_validate(
            {
                "issuer": url,
                "audiences": [PUBLIC_URL],
                "sign_in": {"client_id": CLIENT, "client_secret": "browser-secret"},
            }
        )
        async with lifespan_of(settings.model_copy(update={"issuers": (accepted,)})) as app:
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
                api = Api(client, tokens, await make_tenant(database))
                async with connecting(app, api) as place:
                    yield Desk(place, site)


async def test_the_one_who_asked_signs_in_at_their_issuer_and_connects(desk: Desk) -> None:
    browser, url = desk.place.browser(), await desk.place.link()
    page = await desk.sign_in(browser, url, "mia")
    assert page.path == path_of(url)
    assert "mia@example.org" in page.text
    assert SIGN_IN_COOKIE not in browser.cookies
    there = (await browser.submit(page)).goes_on
    assert there is not None
    assert "is connected to tracker" in (await desk.place.agree(browser, there)).text
    (asked,) = [each for each in desk.issuer.asked if each.path == "/token"]
    assert asked.form["client_secret"] == "browser-secret"


async def test_another_subject_of_the_issuer_is_somebody_else(desk: Desk) -> None:
    page = await desk.sign_in(desk.place.browser(), await desk.place.link(), "mallory")
    assert page.status == 403
    assert "for somebody else" in page.text
    assert "mallory@example.org" in page.text


async def test_a_sign_in_cannot_be_put_upon_another_browser(desk: Desk) -> None:
    """Login CSRF: who is made to sign in as the attacker would connect an account of theirs for the attacker."""
    attacker, victim, url = desk.place.browser(), desk.place.browser(), await desk.place.link("mallory")
    there = await desk.begun(attacker, url)
    await victim.get(url)
    page = await desk.back(victim, there, "mallory")
    assert page.status == 403
    assert SESSION not in victim.cookies
    await desk.begun(victim, url)
    page = await desk.back(victim, there, "mallory")
    assert page.status == 403
    assert SESSION not in victim.cookies


@pytest.mark.parametrize("changes", [{"state": "x"}, {"iss": "https://evil.example"}], ids=["state", "issuer"])
async def test_an_answer_that_was_not_asked_for_is_refused(desk: Desk, changes: dict[str, str]) -> None:
    browser = desk.place.browser()
    page = await desk.sign_in(browser, await desk.place.link(), "mia", **changes)
    assert page.status == 403
    assert SESSION not in browser.cookies
    assert "/token" not in desk.issuer.paths()


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": ...},
        {"aud": "another-client"},
        {"aud": PUBLIC_URL},
        {"iss": "https://evil.example"},
        {"exp": 1},
    ],
    ids=["nonce", "no nonce", "audience", "audience of access tokens", "issuer", "expired"],
)
async def test_an_id_token_for_something_else_signs_nobody_in(desk: Desk, claims: dict[str, Any]) -> None:
    desk.issuer.changes = claims
    browser = desk.place.browser()
    page = await desk.sign_in(browser, await desk.place.link(), "mia")
    assert page.status == 403
    assert SESSION not in browser.cookies


async def test_an_id_token_that_the_issuer_did_not_sign_signs_nobody_in(desk: Desk) -> None:
    desk.issuer.forger = _key()
    browser = desk.place.browser()
    page = await desk.sign_in(browser, await desk.place.link(), "mia")
    assert page.status == 403
    assert SESSION not in browser.cookies


async def test_a_code_that_was_swapped_is_refused_by_pkce(desk: Desk) -> None:
    attacker, victim = desk.place.browser(), desk.place.browser()
    url = await desk.place.link()
    stolen = desk.issuer.agree(await desk.begun(attacker, url), "mallory")["code"]
    page = await desk.sign_in(victim, url, "mia", code=stolen)
    assert page.status == 502
    assert SESSION not in victim.cookies


async def test_no_token_is_asked_for_where_people_sign_in(desk: Desk) -> None:
    browser, url = desk.place.browser(), await desk.place.link()
    page = await browser.submit(await browser.get(url), token=desk.place.token())
    assert page.goes_on is not None
    assert SESSION not in browser.cookies


async def test_a_sign_in_that_is_refused_says_so(desk: Desk) -> None:
    browser = desk.place.browser()
    there = await desk.begun(browser, await desk.place.link())
    state = parse_qs(urlsplit(there).query)["state"][0]
    page = await browser.get(f"/connect/signed-in?{urlencode({'state': state, 'error': 'access_denied'})}")
    assert page.status == 502
    assert "not completed" in page.text
    assert json.dumps(browser.cookies).find(SESSION) < 0


async def test_where_nobody_can_sign_in_the_page_says_what_an_administrator_has_to_do(
    closed: Connecting,
    keyring: str,  # noqa: F811
) -> None:
    browser, url = closed.browser(), await closed.link()
    page = await browser.get(url)
    assert page.status == 503
    assert page.forms == []
    for told in (closed.api.issuer.issuer, "AGENTAPI_ISSUERS", "AGENTAPI_CONNECT_WITH_TOKEN"):
        assert told in page.text
    made = Browsers(Keyring.parse(keyring), lambda: datetime.now(UTC))
    csrf = made.form_token(browser.cookies["__Host-agentapi-oauth"], path_of(url).rpartition("/")[2])
    forced = await browser.post(f"{path_of(url)}/sign-in", {"csrf": csrf, "token": closed.token()})
    assert forced.status == 503
    assert SESSION not in browser.cookies


@pytest.mark.parametrize("allowed", [False, True])
async def test_the_log_says_once_that_nobody_can_sign_in(
    postgres: EmbeddedPostgres,
    issuer: TokenIssuer,  # noqa: F811
    keyring: str,  # noqa: F811
    state_dir: Path,  # noqa: F811
    allowed: bool,
) -> None:
    settings = settings_for(postgres, issuer, keyring, state_dir, connect_with_token=allowed)
    with capture_logs() as logs:
        async with lifespan_of(settings):
            pass
    said = [entry["issuers"] for entry in logs if entry["event"] == "connect_page_without_sign_in"]
    assert said == ([] if allowed else [[issuer.issuer]])
