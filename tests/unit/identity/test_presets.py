"""Tokens shaped like those that the issuers' documentation shows, through the whole of verification."""

from __future__ import annotations

from typing import Any

import pytest

from agentapi.settings import ClaimRules, IssuerSettings
from unit.identity.doubles import AUDIENCE, ISSUER, Clock, Web, directory, key_set, token

SUPABASE = {
    "aud": "authenticated",
    "email": "ada@acme.example",
    "phone": "",
    "role": "authenticated",
    "aal": "aal1",
    "session_id": "5d9a4e4b-6b36-4bb4-8a3b-7d0b7e2b9b52",
    "is_anonymous": False,
    "app_metadata": {"provider": "github", "providers": ["github"], "organization": "acme", "role": "org_admin"},
    "user_metadata": {"organization": "evil", "role": "platform_admin"},
}
AUTH0 = {
    "sub": "auth0|60c7b295",
    "aud": [AUDIENCE, "https://tenant.eu.auth0.com/userinfo"],
    "azp": "3qY1",
    "org_id": "org_9ybsU1dN2dKfDkBi",
    "scope": "openid profile mcp:use",
    "roles": ["viewer", "member"],
}
ENTRA = {
    "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
    "tid": "9188040d-6c67-4c5b-b112-36a304b66dad",
    "oid": "00000000-0000-0000-66f3-3332eca7ea81",
    "ver": "2.0",
    "preferred_username": "ada@acme.example",
    "roles": ["Gateway.Admin"],
    "scp": "mcp.use mcp.read",
}
KEYCLOAK = {
    "typ": "Bearer",
    "azp": "gateway",
    "organization": ["acme"],
    "realm_access": {"roles": ["offline_access", "uma_authorization", "agent"]},
    "resource_access": {"account": {"roles": ["org_admin"]}},
    "scope": "email profile",
    "email": "ada@acme.example",
}
GOOGLE = {
    "sub": "110169484474386276334",
    "azp": "1234987819200.apps.googleusercontent.com",
    "hd": "acme.example",
    "email": "ada@acme.example",
    "email_verified": True,
}


async def verified(preset: str, claims: dict[str, Any], **rules: Any) -> tuple[Any, ...]:
    settings = IssuerSettings.model_validate(
        {"issuer": ISSUER, "preset": preset, "jwks": key_set("k1").decode(), "claims": rules}
    )
    found = await directory([settings], Web(), Clock()).verify(token(**claims), AUDIENCE)
    return found.organization, found.role, found.subject, found.email, found.scopes


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[Any, ...]]] = {
    "supabase": ("supabase", SUPABASE, {}, ("acme", "org_admin", "alice", "ada@acme.example", frozenset())),
    "auth0": (
        "auth0",
        AUTH0,
        {"organizations": {"org_9ybsU1dN2dKfDkBi": "acme"}},
        ("acme", "member", "auth0|60c7b295", None, frozenset({"openid", "profile", "mcp:use"})),
    ),
    "entra": (
        "entra",
        ENTRA,
        {
            "organizations": {"9188040d-6c67-4c5b-b112-36a304b66dad": "acme"},
            "roles": {"Gateway.Admin": "org_admin"},
        },
        ("acme", "org_admin", ENTRA["sub"], "ada@acme.example", frozenset({"mcp.use", "mcp.read"})),
    ),
    "keycloak": (
        "keycloak",
        KEYCLOAK,
        {},
        ("acme", "agent", "alice", "ada@acme.example", frozenset({"email", "profile"})),
    ),
    "google": (
        "google",
        GOOGLE,
        {"organizations": {"acme.example": "acme"}, "default_role": "member"},
        ("acme", "member", GOOGLE["sub"], "ada@acme.example", frozenset()),
    ),
    "generic": (
        "generic",
        {"organization": "acme", "role": "viewer"},
        {},
        ("acme", "viewer", "alice", None, frozenset()),
    ),
    "an explicit rule wins over the preset's": (
        "supabase",
        SUPABASE,
        {"role_pointer": None, "default_role": "viewer"},
        ("acme", "viewer", "alice", "ada@acme.example", frozenset()),
    ),
    "a role that nobody listed gives none": (
        "entra",
        ENTRA,
        {"organizations": {"9188040d-6c67-4c5b-b112-36a304b66dad": "acme"}},
        ("acme", None, ENTRA["sub"], "ada@acme.example", frozenset({"mcp.use", "mcp.read"})),
    ),
    "platform_admin is not taken from a claim that names it": (
        "generic",
        {"organization": "acme", "role": "platform_admin"},
        {},
        ("acme", None, "alice", None, frozenset()),
    ),
    "platform_admin by an explicit entry": (
        "generic",
        {"organization": "acme", "role": "root"},
        {"roles": {"root": "platform_admin"}},
        ("acme", "platform_admin", "alice", None, frozenset()),
    ),
    "google without a domain is a private account": (
        "google",
        {**GOOGLE, "hd": ...},
        {"default_role": "member"},
        (None, "member", GOOGLE["sub"], "ada@acme.example", frozenset()),
    ),
}


@pytest.mark.parametrize(("preset", "claims", "rules", "expected"), CASES.values(), ids=CASES)
async def test_a_preset_reads_the_tokens_of_its_issuer(
    preset: str, claims: dict[str, Any], rules: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert await verified(preset, claims, **rules) == expected


def test_every_preset_of_the_settings_exists_and_sets_only_known_rules() -> None:
    from agentapi.identity.presets import PRESETS

    annotation = IssuerSettings.model_fields["preset"].annotation
    assert set(PRESETS) == set(getattr(annotation, "__args__", ()))
    for preset in PRESETS.values():
        assert set(preset.claims) <= set(ClaimRules.model_fields)
