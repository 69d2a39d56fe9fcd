from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from agentapi.errors import InvalidRequestError
from agentapi.oauth.models import AuthorizationServer, Binding, ProviderName, Revocation
from agentapi.oauth.providers import known_server, offline_scopes
from agentapi.principal import UpstreamId


def server(provider: ProviderName, **parameters: str) -> AuthorizationServer:
    found = known_server(Binding(upstream_id=UpstreamId(uuid4()), provider=provider, parameters=parameters))
    assert found is not None
    return found


def test_github_revokes_in_its_own_way_and_has_no_offline_scope() -> None:
    github = server(ProviderName.GITHUB)
    assert github.token_endpoint == "https://github.com/login/oauth/access_token"
    assert github.revocation is Revocation.GITHUB
    assert github.revocation_endpoint == "https://api.github.com/applications/{client_id}/grant"
    assert offline_scopes(github, ("repo",)) == ("repo",)


def test_google_is_asked_for_offline_access_and_consent_each_time() -> None:
    google = server(ProviderName.GOOGLE)
    assert dict(google.authorize_parameters) == {"access_type": "offline", "prompt": "consent"}
    assert google.revocation_endpoint == "https://oauth2.googleapis.com/revoke"


@pytest.mark.parametrize("tenant", ["organizations", "common", "contoso.onmicrosoft.com", str(UUID(int=7))])
def test_entra_has_its_tenant_in_every_path_and_no_resource_parameter(tenant: str) -> None:
    entra = server(ProviderName.ENTRA, tenant=tenant)
    base = f"https://login.microsoftonline.com/{tenant}"
    assert entra.issuer == f"{base}/v2.0"
    assert entra.authorization_endpoint == f"{base}/oauth2/v2.0/authorize"
    assert entra.token_endpoint == f"{base}/oauth2/v2.0/token"
    assert (entra.takes_resource, entra.revocation, entra.revocation_endpoint) == (False, Revocation.NONE, None)
    assert offline_scopes(entra, ("a",)) == ("a", "offline_access")
    assert offline_scopes(entra, ("offline_access", "a")) == ("offline_access", "a")


def test_auth0_has_a_domain_and_may_have_an_audience() -> None:
    auth0 = server(ProviderName.AUTH0, domain="team.eu.auth0.com", audience="https://api.example")
    assert auth0.issuer == "https://team.eu.auth0.com/"
    assert auth0.revocation_endpoint == "https://team.eu.auth0.com/oauth/revoke"
    assert dict(auth0.authorize_parameters) == {"audience": "https://api.example"}
    assert server(ProviderName.AUTH0, domain="team.eu.auth0.com").authorize_parameters == ()


@pytest.mark.parametrize(
    ("provider", "parameters"),
    [
        (ProviderName.ENTRA, {}),
        (ProviderName.ENTRA, {"tenant": "a/../b"}),
        (ProviderName.ENTRA, {"tenant": ""}),
        (ProviderName.AUTH0, {"domain": "evil.example/x"}),
        (ProviderName.AUTH0, {"domain": "user@evil.example"}),
        (ProviderName.AUTH0, {"domain": "evil.example#"}),
        (ProviderName.AUTH0, {"domain": "localhost"}),
        (ProviderName.GITHUB, {"tenant": "x"}),
        (ProviderName.MCP, {"audience": "https://api.example"}),
        (ProviderName.OIDC, {}),
    ],
)
def test_parameters_that_a_provider_does_not_take_are_refused(
    provider: ProviderName, parameters: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequestError):
        known_server(Binding(upstream_id=UpstreamId(uuid4()), provider=provider, parameters=parameters))


def test_generic_servers_are_left_to_discovery() -> None:
    for provider, parameters in (
        (ProviderName.OIDC, {"issuer": "https://as.example"}),
        (ProviderName.MCP, {"issuer": "https://as.example"}),
    ):
        binding = Binding(upstream_id=UpstreamId(uuid4()), provider=provider, parameters=parameters)
        assert known_server(binding) is None
