"""``agentapi audit`` on the database of a deployment: what an operator and an auditor run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from agentapi._core import Keyring
from agentapi.audit.models import Entry, Outcome
from agentapi.audit.signing import SigningKeys
from integration.audit.logs import running
from support.deployment import agentapi
from tenants import make_tenant

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres

KEYRING = Keyring.generate("k1")


@pytest.fixture
def env(postgres: EmbeddedPostgres, tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "keyring.json"
    file.write_text(KEYRING)
    return {"AGENTAPI_DATABASE_URL": postgres.app_dsn, "AGENTAPI_KEYRING_FILE": str(file)}


async def audit(env: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    ended = await asyncio.to_thread(agentapi, "audit", *arguments, env=env)
    return ended.returncode, ended.stdout, ended.stderr


async def test_one_organisation_is_verified_as_the_application(pool: Database, env: dict[str, str]) -> None:
    one, other = await make_tenant(pool), await make_tenant(pool)
    async with running(pool, keys=SigningKeys.from_keyring(KEYRING), checkpoint_s=3600.0) as log:
        for tenant in (one, one, other):
            await log.call(tenant.principal, Entry("tools.call", Outcome.SUCCESS))
    status, out, complaint = await audit(env, "verify", "--json", "--organization", one.principal.org_slug)
    assert (status, complaint) == (0, "")
    [report] = json.loads(out)["organizations"]
    assert (report["org_id"], report["rows"]) == (str(one.principal.org_id), 2)
