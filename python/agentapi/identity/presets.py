"""Claim shapes of well-known issuers.

Sources: Supabase "JWT fields" (``app_metadata``), Auth0 "Organizations" (``org_id``) and "Namespaced custom claims",
Microsoft "Access token claims reference" (``tid``, ``roles``, ``scp``), Keycloak "Organizations" (``organization``) and
its realm roles mapper (``realm_access.roles``), Google "OpenID Connect" (``hd``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.settings import IssuerSettings

__all__ = ["PRESETS", "Preset", "effective_claims"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Where an issuer's tokens carry what; see ``ClaimRules`` for the fields of ``claims``."""

    claims: Mapping[str, Any]
    audiences: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    "generic": Preset({"organization_pointer": "/organization", "role_pointer": "/role"}),
    "supabase": Preset(
        {"organization_pointer": "/app_metadata/organization", "role_pointer": "/app_metadata/role"},
        audiences=("authenticated",),
    ),
    "auth0": Preset({"organization_pointer": "/org_id", "role_pointer": "/roles"}),
    "entra": Preset(
        {
            "organization_pointer": "/tid",
            "role_pointer": "/roles",
            "email_pointer": "/preferred_username",
            "scope_pointer": "/scp",
        }
    ),
    "keycloak": Preset({"organization_pointer": "/organization", "role_pointer": "/realm_access/roles"}),
    "google": Preset({"organization_pointer": "/hd"}),
}


def effective_claims(settings: IssuerSettings) -> dict[str, Any]:
    """Return the claim rules of ``settings``: its preset, overridden by what was set explicitly."""
    return {**PRESETS[settings.preset].claims, **settings.claims.model_dump(exclude_unset=True)}
