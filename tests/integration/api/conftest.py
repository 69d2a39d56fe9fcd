from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest

from agentapi._core import Keyring
from agentapi.identity.token_issuer import TokenIssuer
from integration.api.harness import ISSUER, PUBLIC_URL, Api, lifespan_of, settings_for
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.applications import Starlette

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> TokenIssuer:
    return TokenIssuer.from_file(ISSUER, tmp_path_factory.mktemp("issuer") / "key.json")


@pytest.fixture(scope="session")
def keyring() -> str:
    return Keyring.generate("k1")


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="session")
async def gateway(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> AsyncIterator[Starlette]:
    """A gateway that may call loopback over http, with a short patience for upstreams."""
    settings = settings_for(postgres, issuer, keyring, state_dir, upstream_connect_timeout_s=2.0)
    async with lifespan_of(settings) as app:
        yield app


@pytest.fixture(scope="session")
async def strict_gateway(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> AsyncIterator[Starlette]:
    """A gateway as in production: https alone, no private address."""
    settings = settings_for(
        postgres, issuer, keyring, state_dir, egress_allow_http=False, egress_allow_networks=(), stdio_commands={}
    )
    async with lifespan_of(settings) as app:
        yield app


@pytest.fixture(scope="session")
async def http(gateway: Starlette) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=gateway)
    async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
        yield client


@pytest.fixture
async def api(http: httpx2.AsyncClient, issuer: TokenIssuer, database: Database) -> Api:
    """An organisation of this test alone."""
    return Api(http, issuer, await make_tenant(database))


@pytest.fixture
async def strict_api(strict_gateway: Starlette, issuer: TokenIssuer, database: Database) -> AsyncIterator[Api]:
    transport = httpx2.ASGITransport(app=strict_gateway)
    async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
        yield Api(client, issuer, await make_tenant(database))
