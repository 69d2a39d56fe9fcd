"""The four presets, each through connect, expiry, end and revocation against a stand-in of its provider."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from agentapi.audit.log import AuditLog
from agentapi.egress import Egress
from agentapi.jobs.queue import JobQueue
from agentapi.oauth.clients import store as client_store
from agentapi.oauth.errors import GrantRefusedError, ReconnectNeededError
from agentapi.oauth.flow import Answer
from agentapi.oauth.models import Binding, Client, ClientAuth, ProviderName, Registration
from agentapi.oauth.providers import PRESETS
from agentapi.oauth.room import OAuthRoom
from agentapi.settings import load_settings
from agentapi.upstreams.link import Caller
from integration.api.harness import served
from integration.oauth.standins import CLIENT_ID, CLIENT_SECRET, Auth0, Entra, GitHub, Google, StandIn
from tenants import NOW
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi._core import Keyring
    from agentapi.oauth.models import Connection
    from agentapi.oauth.providers import Preset
    from integration.oauth.conftest import Bench

_S = TypeVar("_S", bound=StandIn)

PARAMETERS = {
    ProviderName.GITHUB: {},
    ProviderName.GOOGLE: {},
    ProviderName.ENTRA: {"tenant": "organizations"},
    ProviderName.AUTH0: {"domain": "team.eu.auth0.com", "audience": "https://api.example"},
}


def elsewhere(preset: Preset, url: str) -> Preset:
    """The preset as it is, at the stand-in's address."""

    def at(base: str | None) -> str | None:
        return None if base is None else url + urlsplit(base).path

    return replace(
        preset, base=url + urlsplit(preset.base).path, token_base=at(preset.token_base),
        revocation_base=at(preset.revocation_base),
    )  # fmt: skip


def client(provider: ProviderName, secret: str = CLIENT_SECRET) -> Client:
    return Client(
        issuer=PRESETS[provider].issuer.format_map(PARAMETERS[provider]),
        client_id=CLIENT_ID,
        secret=SecretStr(secret),
        auth_method=ClientAuth.POST,
        registration=Registration.MANUAL,
    )


@dataclass(slots=True)
class Set:
    bench: Bench
    room: OAuthRoom
    at: StandIn

    async def begin(self) -> tuple[str, str]:
        begun = await self.room.flows.init(self.bench.principal, self.bench.upstream)
        return begun.url, begun.browser

    async def connect(self) -> dict[str, str]:
        url, browser = await self.begin()
        given = self.at.agree(url)
        await self.room.flows.finish(Answer(state=given["state"], code=given["code"]), browser=browser)
        return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}

    async def credential(self) -> str:
        principal = self.bench.principal
        caller = Caller(principal.org_id, principal.user_id)
        credential = await self.room.credentials.credential(self.bench.upstream, caller)
        return credential.headers["Authorization"].get_secret_value()

    async def connection(self) -> Connection:
        return (await self.room.book.page(self.bench.principal, limit=1, after=None))[0]

    async def revoke(self) -> str:
        return await self.room.revoker.revoke(self.bench.principal, self.bench.upstream.id)

    def later(self, **span: float) -> None:
        self.bench.clock.moved += timedelta(**span)


@contextlib.asynccontextmanager
async def bound(bench: Bench, keyring: Keyring, provider: ProviderName, at: _S) -> AsyncIterator[tuple[Set, _S]]:
    async with served(at) as url, Egress(LOOPBACK, timeout_s=5.0) as egress:
        at.url = url
        settings = load_settings(public_url="http://gateway.example", egress_timeout_s=5.0)
        room = OAuthRoom.build(
            settings,
            database=bench.database,
            egress=egress,
            keyring=keyring,
            audit=AuditLog(bench.database),
            jobs=JobQueue("", keyring=keyring, timeout_s=5.0),
            clock=bench.clock,
            presets={provider: elsewhere(PRESETS[provider], url)},
        )
        binding = Binding(upstream_id=bench.upstream.id, provider=provider, parameters=PARAMETERS[provider])
        async with bench.database.tenant_transaction(bench.principal) as connection:
            await client_store.put_binding(
                connection, binding, org_id=bench.principal.org_id, updated_by=bench.principal.user_id, now=NOW
            )
        await room.clients.put(bench.principal, client(provider))
        yield Set(bench, room, at), at
        await room.refresher.aclose()


@pytest.mark.parametrize("only_forms", [False, True])
async def test_github_tokens_of_an_oauth_app_do_not_expire(
    bench: Bench, oauth_keyring: Keyring, only_forms: bool
) -> None:
    standin = GitHub(only_forms=only_forms)
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.GITHUB, standin) as (given, at):
        asked = await given.connect()
        assert "resource" not in asked
        token = await given.credential()
        assert token.startswith("Bearer gho_")
        assert (await given.connection()).scopes == ("repo", "gist")
        given.later(days=400)
        assert await given.credential() == token
        assert await given.revoke() == "revoked"
        assert at.deleted == [token.removeprefix("Bearer ")]


async def test_github_tokens_of_a_github_app_expire_and_rotate(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = GitHub(expiring=True)
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.GITHUB, standin) as (given, at):
        await given.connect()
        first = await given.credential()
        assert first.startswith("Bearer ghu_")
        given.later(seconds=28_800)
        assert await given.credential() != first
        at.refresh_tokens.clear()
        given.later(seconds=28_800)
        with pytest.raises(ReconnectNeededError):
            await given.credential()


async def test_github_errors_come_with_status_200(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = GitHub()
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.GITHUB, standin) as (given, at):
        url, browser = await given.begin()
        answer = at.agree(url)
        with pytest.raises(GrantRefusedError, match="bad_verification_code"):
            await given.room.flows.finish(Answer(state=answer["state"], code="other"), browser=browser)


async def test_github_refuses_a_client_that_it_does_not_know(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = GitHub()
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.GITHUB, standin) as (given, at):
        url, browser = await given.begin()
        answer = at.agree(url)
        await given.room.clients.put(bench.principal, client(ProviderName.GITHUB, "an-older-secret"))
        with pytest.raises(GrantRefusedError, match="incorrect_client_credentials"):
            await given.room.flows.finish(Answer(state=answer["state"], code=answer["code"]), browser=browser)


async def test_google_gives_a_refresh_token_at_every_connection(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = Google(consented=True)
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.GOOGLE, standin) as (given, at):
        asked = await given.connect()
        assert (asked["access_type"], asked["prompt"]) == ("offline", "consent")
        first = await given.credential()
        for _ in range(2):  # A refresh gives no new refresh token: the first one stays good.
            given.later(seconds=3599)
            assert await given.credential() != first
        refresh_token = next(iter(at.refresh_tokens))
        assert await given.revoke() == "revoked"
        assert at.revoked == [refresh_token]


async def test_entra_has_the_tenant_in_the_path_and_nothing_to_revoke_at(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = Entra()
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.ENTRA, standin) as (given, at):
        asked = await given.connect()
        assert asked["scope"] == "openid https://graph.microsoft.com/User.Read offline_access"
        first = await given.credential()
        given.later(seconds=4799)
        assert await given.credential() != first
        assert set(at.paths()) == {"/organizations/oauth2/v2.0/token"}
        assert await given.revoke() == "not_supported"


async def test_entra_may_want_the_user_to_sign_in_anew(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = Entra()
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.ENTRA, standin) as (given, at):
        await given.connect()
        at.conditional_access = True
        given.later(seconds=4799)
        with pytest.raises(ReconnectNeededError):
            await given.credential()


async def test_auth0_says_of_an_access_token_that_it_is_revoked_and_is_not_believed(
    bench: Bench, oauth_keyring: Keyring
) -> None:
    standin = Auth0(offline=False)
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.AUTH0, standin) as (given, at):
        await given.connect()
        assert await given.revoke() == "not_supported"
        assert at.revoked == []


async def test_auth0_gives_a_token_for_the_audience_and_rotates(bench: Bench, oauth_keyring: Keyring) -> None:
    standin = Auth0()
    standin.lay_down()
    async with bound(bench, oauth_keyring, ProviderName.AUTH0, standin) as (given, at):
        asked = await given.connect()
        assert asked["audience"] == "https://api.example"
        assert (await given.credential()).startswith("Bearer jwt.")
        for _ in range(2):
            given.later(seconds=86_400)
            await given.credential()
        refresh_token = next(iter(at.refresh_tokens))
        assert await given.revoke() == "revoked"
        assert at.revoked == [refresh_token]


def test_every_preset_is_here() -> None:
    assert set(PARAMETERS) == set(PRESETS)
