"""Something of a tenant behind each route that names one, for tests in which another tenant asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from integration.api.harness import Api

__all__ = ["PLACES", "Belongings"]


async def _upstream(api: Api) -> str:
    return str((await api.caller().created(name="mine-" + uuid4().hex[:8]))["id"])


async def _toolset(api: Api) -> str:
    answer = await api.caller().request("POST", "/api/v1/mcp/toolsets", json={"name": "mine", "tools": ["*"]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def _key(api: Api) -> str:
    answer = await api.caller().request("POST", "/api/v1/api-keys", json={"name": "mine-key"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def _session(api: Api) -> str:
    answer = await api.caller().request("POST", "/api/v1/sessions", json={"name": "mine-session"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def _prompt(api: Api) -> str:
    answer = await api.caller().request("POST", "/api/v1/prompts", json={"name": "mine-" + uuid4().hex, "text": "mine"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def _organization(api: Api) -> str:
    return str(api.tenant.principal.org_id)


async def _workspace(api: Api) -> str:
    slug = "mine-" + uuid4().hex[:8]
    answer = await api.caller().request("POST", "/api/v1/workspaces", json={"slug": slug, "name": slug})
    assert answer.status_code == 201, answer.text
    return slug


async def _member(api: Api) -> str:
    await api.caller().page()
    return str((await api.caller().request("GET", "/api/v1/members")).json()["items"][0]["id"])


async def _invitation(api: Api) -> str:
    answer = await api.caller().request("POST", "/api/v1/invitations", json={})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


PLACES: Mapping[str, Callable[[Api], Awaitable[str]]] = {
    "/api/v1/mcp/configurations/{id}": _upstream,
    "/api/v1/mcp/toolsets/{id}": _toolset,
    "/api/v1/prompts/{id}": _prompt,
    "/api/v1/prompts/{id}/versions": _prompt,
    "/api/v1/prompts/{id}/rollback": _prompt,
    "/api/v1/mcp/oauth/providers/{id}": _upstream,
    "/api/v1/mcp/credentials/{upstream}": _upstream,
    "/api/v1/api-keys/{id}": _key,
    "/api/v1/api-keys/{id}/rotate": _key,
    "/api/v1/sessions/{id}": _session,
    "/api/v1/sessions/{id}/touch": _session,
    "/api/v1/sessions/{id}/tokens": _session,
    "/api/v1/organizations/{id}": _organization,
    "/api/v1/organizations/{id}/transfer": _organization,
    "/api/v1/workspaces/{slug}": _workspace,
    "/api/v1/members/{id}": _member,
    "/api/v1/invitations/{id}": _invitation,
}
"""How a tenant comes to the thing that the last parameter of a path names."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What a tenant has, and what of it nobody else may read."""

    api: Api
    thing: str | None

    @classmethod
    async def of(cls, api: Api, name: str) -> Self:
        """Give the tenant an upstream, and the thing that the route ``name`` is about."""
        await _upstream(api)
        make = PLACES.get(name.split(" ", 1)[1])
        return cls(api, None if make is None else await make(api))

    def path(self, name: str) -> str:
        """Return the path of a route with the tenant's own thing in it."""
        path = name.split(" ", 1)[1]
        head, brace, tail = path.partition("{")
        if not brace:
            return path
        return f"{head}{self.thing or uuid4()}{tail.partition('}')[2]}"

    def marks(self) -> tuple[str, ...]:
        """Return what would show that an answer tells of the tenant."""
        principal = self.api.tenant.principal
        return (principal.org_slug, str(principal.org_id), "mine-")
