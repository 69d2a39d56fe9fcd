from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from pydantic import SecretStr

from agentapi._core import Keyring, SealError
from agentapi.oauth.models import (
    AuthorizationServer,
    Connection,
    ConnectionId,
    Flow,
    FlowId,
    Grant,
    ProviderName,
    Revocation,
    Status,
)
from agentapi.oauth.vault import Vault, connection_id
from agentapi.principal import OrgId, UpstreamId, UserId

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ORG, USER, UPSTREAM = OrgId(uuid4()), UserId(uuid4()), UpstreamId(uuid4())
SERVER = AuthorizationServer(
    issuer="https://as.example",
    authorization_endpoint="https://as.example/a",
    token_endpoint="https://as.example/t",
    revocation_endpoint="https://as.example/r",
    revocation=Revocation.RFC7009,
    auth_methods=("none",),
    authorize_parameters=(("a", "b"),),
)
GRANT = Grant(
    access_token=SecretStr("at-secret"),
    refresh_token=SecretStr("rt-secret"),
    client_id="id",
    server=SERVER,
    endpoint="https://up.example/mcp",
    resource="https://up.example/",
)


@pytest.fixture
def vault() -> Vault:
    return Vault(Keyring.parse(Keyring.generate("k1")))


def sealed_connection(vault: Vault, grant: Grant = GRANT) -> Connection:
    id_ = connection_id(ORG, USER, UPSTREAM)
    sealed = vault.seal_grant(grant, id_=id_, org_id=ORG, user_id=USER, provider=ProviderName.MCP)
    return Connection(
        id=id_,
        org_id=ORG,
        user_id=USER,
        upstream_id=UPSTREAM,
        provider=ProviderName.MCP,
        sealed=sealed,
        scopes=("a",),
        status=Status.ACTIVE,
        expires_at=None,
        created_at=NOW,
        updated_at=NOW,
    )


def test_a_grant_opens_as_it_was_sealed(vault: Vault) -> None:
    connection = sealed_connection(vault)
    assert vault.open_grant(connection) == GRANT
    assert b"at-secret" not in connection.sealed
    without = replace(GRANT, refresh_token=None, resource=None)
    assert vault.open_grant(sealed_connection(vault, without)) == without


def test_a_grant_opens_nowhere_else(vault: Vault) -> None:
    connection = sealed_connection(vault)
    elsewhere = (
        replace(connection, id=ConnectionId(uuid4())),
        replace(connection, org_id=OrgId(uuid4())),
        replace(connection, user_id=UserId(uuid4())),
        replace(connection, provider=ProviderName.GITHUB),
        replace(connection, sealed=connection.sealed[:-1] + bytes([connection.sealed[-1] ^ 1])),
    )
    for moved in elsewhere:
        with pytest.raises(SealError):
            vault.open_grant(moved)


def test_a_flow_opens_in_its_own_row_alone(vault: Vault) -> None:
    flow = Flow(
        id=FlowId(uuid4()),
        org_id=ORG,
        user_id=USER,
        upstream_id=UPSTREAM,
        endpoint="https://up.example/mcp",
        provider=ProviderName.OIDC,
        server=SERVER,
        client_id="id",
        verifier=SecretStr("verifier"),
        resource=None,
        scopes=("a", "b"),
        return_to="https://app.example/done",
        expires_at=NOW,
    )
    sealed = vault.seal_flow(flow)
    row = {"flow_id": flow.id, "org_id": ORG, "user_id": USER, "upstream_id": UPSTREAM, "expires_at": NOW}
    assert vault.open_flow(sealed, **row) == flow  # type: ignore[arg-type] # of several types by name
    for name, other in (("flow_id", FlowId(uuid4())), ("org_id", OrgId(uuid4())), ("user_id", UserId(uuid4()))):
        with pytest.raises(SealError):
            vault.open_flow(sealed, **{**row, name: other})  # type: ignore[arg-type] # as above


def test_a_client_secret_belongs_to_its_issuer_and_organisation(vault: Vault) -> None:
    sealed = vault.seal_client_secret(ORG, "https://as.example", SecretStr("shh"))
    assert vault.open_client_secret(ORG, "https://as.example", sealed).get_secret_value() == "shh"
    for org_id, issuer in ((ORG, "https://evil.example"), (OrgId(uuid4()), "https://as.example")):
        with pytest.raises(SealError):
            vault.open_client_secret(org_id, issuer, sealed)


def test_what_is_opened_does_not_print(vault: Vault) -> None:
    opened = vault.open_grant(sealed_connection(vault))
    shown = f"{opened!r} {opened} {opened.access_token} {sealed_connection(vault)!r}"
    assert "secret" not in shown.replace("SecretStr", "")
