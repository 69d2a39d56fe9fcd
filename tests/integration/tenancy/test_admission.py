from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.errors import ForbiddenError, NotFoundError
from agentapi.principal import Role
from agentapi.settings import IssuerSettings
from agentapi.storage.database import Database
from agentapi.tenancy.admission import Admission
from agentapi.tenancy.models import user_id_of
from tenants import Tenant, make_tenant
from unit.identity.doubles import AUDIENCE, ISSUER, Clock, Web, directory, key_set, token

if TYPE_CHECKING:
    import asyncpg

    from agentapi._core import VerifiedToken
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.storage.embedded import EmbeddedPostgres


def issuers() -> IssuerDirectory:
    return directory([IssuerSettings(issuer=ISSUER, jwks=key_set("k1").decode())], Web(), Clock())


async def verified(tenant: Tenant, **claims: Any) -> VerifiedToken:
    given = {"organization": tenant.principal.org_slug, "role": "member", **claims}
    return await issuers().verify(token(**given), AUDIENCE)


async def test_a_token_becomes_a_principal_and_is_remembered(database: Database) -> None:
    clock, tenant = Clock(), await make_tenant(database)
    admission = Admission(database, clock=clock, ttl_s=30.0)
    presented = await verified(tenant, role="viewer", scope="a b")
    principal = await admission.admit(presented)
    assert (principal.org_id, principal.role, principal.subject) == (tenant.principal.org_id, Role.VIEWER, "alice")
    assert principal.user_id == user_id_of(ISSUER, "alice")
    assert principal.scopes == {"a", "b"}
    assert await admission.admit(presented) is principal
    clock.advance(30.0)
    again = await admission.admit(presented)
    assert again == principal
    assert again is not principal


async def test_what_a_token_does_not_say_is_refused(database: Database) -> None:
    admission, tenant = Admission(database, clock=Clock()), await make_tenant(database)
    with pytest.raises(ForbiddenError, match="names no organisation"):
        await admission.admit(await verified(tenant, organization=...))
    with pytest.raises(ForbiddenError, match="gives no role"):
        await admission.admit(await verified(tenant, role=...))
    with pytest.raises(NotFoundError):
        await admission.admit(await verified(tenant, organization="missing"))


async def test_two_tokens_of_one_person_are_one_user(database: Database) -> None:
    admission, tenant = Admission(database, clock=Clock()), await make_tenant(database)
    one = await admission.admit(await verified(tenant))
    two = await admission.admit(await verified(tenant, jti="other", role="viewer"))
    assert one.user_id == two.user_id
    assert (one.role, two.role) == (Role.MEMBER, Role.VIEWER)


async def test_a_forgotten_token_leaves_nothing_behind(database: Database) -> None:
    admission, tenant = Admission(database, clock=Clock()), await make_tenant(database)
    await admission.admit(await verified(tenant))
    assert len(admission._principals) == 0


@pytest.mark.parametrize("email", ["a@b.example", "no address", "x" * 254, "ä@ö"])
async def test_an_address_as_the_issuer_wrote_it_does_no_harm(database: Database, email: str) -> None:
    admission, tenant = Admission(database, clock=Clock()), await make_tenant(database)
    await admission.admit(await verified(tenant, email=email))


async def member_rows(database: Database, tenant: Tenant) -> list[asyncpg.Record]:
    async with database.tenant_transaction(tenant.principal) as connection:
        return list(await connection.fetch("SELECT * FROM members ORDER BY created_at"))


async def test_the_first_token_makes_a_member_and_later_ones_refresh_it(database: Database) -> None:
    clock, tenant = Clock(), await make_tenant(database)
    admission = Admission(database, clock=clock, ttl_s=30.0)
    presented = await verified(tenant, role="viewer", email="old@b.example")
    principal = await admission.admit(presented)
    (first,) = await member_rows(database, tenant)
    assert (first["user_id"], first["issuer"], first["subject"]) == (principal.user_id, ISSUER, "alice")
    assert (first["role"], first["email"]) == ("viewer", "old@b.example")
    await admission.admit(presented)
    assert await member_rows(database, tenant) == [first]
    clock.advance(30.0)
    await admission.admit(presented)
    (seen,) = await member_rows(database, tenant)
    assert seen["last_seen_at"] > first["last_seen_at"]
    await admission.admit(await verified(tenant, role="member", email="new@b.example"))
    (promoted,) = await member_rows(database, tenant)
    assert (promoted["role"], promoted["email"]) == ("member", "new@b.example")
    assert promoted["created_at"] == first["created_at"]


async def test_somebody_new_may_come_with_many_requests_at_once(postgres: EmbeddedPostgres, database: Database) -> None:
    tenant = await make_tenant(database)
    pool = await Database.connect(postgres.app_dsn, pool_min=8, pool_max=8, timeout_s=5.0)
    try:
        for number in range(20):
            known = await verified(tenant, sub=f"person-{number}")
            replicas = [Admission(pool, clock=Clock()) for _ in range(8)]
            admitted = await asyncio.gather(*(admission.admit(known) for admission in replicas))
            assert len({principal.user_id for principal in admitted}) == 1
    finally:
        await pool.close()
