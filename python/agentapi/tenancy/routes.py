"""``/api/v1/organizations``, ``/workspaces``, ``/members``, ``/invitations`` and ``/platform/organizations``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from uuid import UUID

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.api_input import decode_cursor, encode_cursor, known_id, page_limit, parse, read_json
from agentapi.errors import NotFoundError
from agentapi.preconditions import entity_tag, if_match
from agentapi.principal import UserId
from agentapi.tenancy.models import Claimant, is_slug
from agentapi.tenancy.requests import (
    AcceptInput,
    InvitationInput,
    NewOrganizationInput,
    OrganizationInput,
    PlatformInput,
    RoleInput,
    TransferInput,
    WorkspaceInput,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    from agentapi._core import VerifiedToken
    from agentapi.principal import Principal
    from agentapi.tenancy.book import Tenancy
    from agentapi.tenancy.documents import (
        InvitationDocument,
        MemberDocument,
        NewInvitationDocument,
        OrganizationDocument,
        WorkspaceDocument,
    )
    from agentapi.tenancy.models import Invitation, Member, Organization, Workspace

__all__ = ["JOIN_PATH", "TenancyRoutes"]

JOIN_PATH: Final = "/join"
"""Where the link of an invitation leads to, with its token behind."""
_ORGANIZATIONS: Final = "/api/v1/organizations"
_WORKSPACES: Final = "/api/v1/workspaces"
_MEMBERS: Final = "/api/v1/members"
_INVITATIONS: Final = "/api/v1/invitations"
_PLATFORM: Final = "/api/v1/platform/organizations"
_SLUG: Final = re.compile(r"[a-z0-9-]{0,63}")
_FIRST: Final = UUID(int=0)
_NO_STORE: Final = {"Cache-Control": "no-store"}


class TenancyRoutes:
    """The routes; the table of permissions says who enters each.

    Args:
        authorize: Gives the principal of a request.
        verify: Gives the verified token of a request, whose owner may be no member yet.
        tenancy: Does the work.
        public_url: The gateway's address, for the addresses of workspaces.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        verify: Callable[[Request], Awaitable[VerifiedToken]],
        tenancy: Tenancy,
        public_url: str,
    ) -> None:
        self._authorize = authorize
        self._verify = verify
        self._tenancy = tenancy
        self._public_url = public_url

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(_ORGANIZATIONS, self.own, methods=["GET"]),
            Route(f"{_ORGANIZATIONS}/{{id}}", self.read, methods=["GET"]),
            Route(f"{_ORGANIZATIONS}/{{id}}", self.change, methods=["PUT"]),
            Route(f"{_ORGANIZATIONS}/{{id}}", self.delete, methods=["DELETE"]),
            Route(f"{_ORGANIZATIONS}/{{id}}/transfer", self.transfer, methods=["POST"]),
            Route(_WORKSPACES, self.workspaces, methods=["GET"]),
            Route(_WORKSPACES, self.create_workspace, methods=["POST"]),
            Route(f"{_WORKSPACES}/{{slug}}", self.read_workspace, methods=["GET"]),
            Route(f"{_WORKSPACES}/{{slug}}", self.change_workspace, methods=["PUT"]),
            Route(f"{_WORKSPACES}/{{slug}}", self.delete_workspace, methods=["DELETE"]),
            Route(_MEMBERS, self.members, methods=["GET"]),
            Route(f"{_MEMBERS}/me", self.leave, methods=["DELETE"]),
            Route(f"{_MEMBERS}/{{id}}", self.read_member, methods=["GET"]),
            Route(f"{_MEMBERS}/{{id}}", self.assign_role, methods=["PUT"]),
            Route(f"{_MEMBERS}/{{id}}", self.remove_member, methods=["DELETE"]),
            Route(_INVITATIONS, self.invitations, methods=["GET"]),
            Route(_INVITATIONS, self.invite, methods=["POST"]),
            Route(f"{_INVITATIONS}/accept", self.accept, methods=["POST"]),
            Route(f"{_INVITATIONS}/{{id}}", self.withdraw, methods=["DELETE"]),
            Route(_PLATFORM, self.all_organizations, methods=["GET"]),
            Route(_PLATFORM, self.create_organization, methods=["POST"]),
            Route(f"{_PLATFORM}/{{slug}}", self.read_any, methods=["GET"]),
            Route(f"{_PLATFORM}/{{slug}}", self.decide, methods=["PUT"]),
            Route(f"{_PLATFORM}/{{slug}}", self.delete_any, methods=["DELETE"]),
        ]

    async def own(self, request: Request) -> Response:
        """``GET /api/v1/organizations``: the one that the token names."""
        organization = await self._tenancy.organization(await self._authorize(request))
        page_limit(request)
        items = [] if decode_cursor(request, _SLUG) else [_organization(organization)]
        return _page(items, None)

    async def read(self, request: Request) -> Response:
        """``GET /api/v1/organizations/{id}``."""
        return _answer(_organization(await self._tenancy.organization(await self._of(request))))

    async def change(self, request: Request) -> Response:
        """``PUT /api/v1/organizations/{id}``: another slug is another address, and another name in tokens."""
        principal = await self._of(request)
        given = parse(OrganizationInput, await read_json(request))
        changed = await self._tenancy.change_organization(principal, given, expected=if_match(request))
        return _answer(_organization(changed))

    async def transfer(self, request: Request) -> Response:
        """``POST /api/v1/organizations/{id}/transfer``."""
        principal = await self._of(request)
        given = parse(TransferInput, await read_json(request))
        changed = await self._tenancy.transfer(principal, UserId(given.user_id), expected=if_match(request))
        return _answer(_organization(changed))

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/v1/organizations/{id}``, by its owner."""
        await self._tenancy.delete_organization(await self._of(request), expected=if_match(request))
        return Response(status_code=204)

    async def workspaces(self, request: Request) -> Response:
        """``GET /api/v1/workspaces?limit=&cursor=``."""
        principal = await self._authorize(request)
        limit, cursor = page_limit(request), decode_cursor(request, _SLUG)
        after = "" if cursor is None else cursor[0]
        found = await self._tenancy.workspaces(principal, after=after, limit=limit + 1)
        items = [self._workspace(principal, each) for each in found[:limit]]
        return _page(items, encode_cursor(found[limit - 1].slug, found[limit - 1].id) if len(found) > limit else None)

    async def create_workspace(self, request: Request) -> Response:
        """``POST /api/v1/workspaces``."""
        principal = await self._authorize(request)
        given = parse(WorkspaceInput, await read_json(request))
        created = await self._tenancy.create_workspace(principal, given)
        return _answer(self._workspace(principal, created), status=201, location=f"{_WORKSPACES}/{created.slug}")

    async def read_workspace(self, request: Request) -> Response:
        """``GET /api/v1/workspaces/{slug}``."""
        principal = await self._authorize(request)
        return _answer(
            self._workspace(principal, await self._tenancy.workspace(principal, _slug(request, "workspace")))
        )

    async def change_workspace(self, request: Request) -> Response:
        """``PUT /api/v1/workspaces/{slug}``: another slug is another address; the old one is nobody's at once."""
        principal = await self._authorize(request)
        given = parse(WorkspaceInput, await read_json(request))
        changed = await self._tenancy.change_workspace(
            principal, _slug(request, "workspace"), given, expected=if_match(request)
        )
        return _answer(self._workspace(principal, changed))

    async def delete_workspace(self, request: Request) -> Response:
        """``DELETE /api/v1/workspaces/{slug}``."""
        principal = await self._authorize(request)
        await self._tenancy.delete_workspace(principal, _slug(request, "workspace"), expected=if_match(request))
        return Response(status_code=204)

    async def members(self, request: Request) -> Response:
        """``GET /api/v1/members?limit=&cursor=``."""
        principal = await self._authorize(request)
        limit, after = page_limit(request), _after(request)
        found = await self._tenancy.members(principal, after=after, limit=limit + 1)
        items = [_member(each) for each in found[:limit]]
        return _page(items, encode_cursor("", found[limit - 1].user_id) if len(found) > limit else None)

    async def read_member(self, request: Request) -> Response:
        """``GET /api/v1/members/{id}``."""
        principal = await self._authorize(request)
        return _answer(_member(await self._tenancy.member(principal, _user(request))))

    async def assign_role(self, request: Request) -> Response:
        """``PUT /api/v1/members/{id}``."""
        principal = await self._authorize(request)
        user_id, given = _user(request), parse(RoleInput, await read_json(request))
        return _answer(
            _member(await self._tenancy.assign_role(principal, user_id, given.role, expected=if_match(request)))
        )

    async def remove_member(self, request: Request) -> Response:
        """``DELETE /api/v1/members/{id}``."""
        principal = await self._authorize(request)
        await self._tenancy.remove_member(principal, _user(request), expected=if_match(request))
        return Response(status_code=204)

    async def leave(self, request: Request) -> Response:
        """``DELETE /api/v1/members/me``."""
        principal = await self._authorize(request)
        await self._tenancy.remove_member(principal, principal.user_id, expected=if_match(request))
        return Response(status_code=204)

    async def invitations(self, request: Request) -> Response:
        """``GET /api/v1/invitations?limit=&cursor=``: those that may still be taken, without their tokens."""
        principal = await self._authorize(request)
        limit, after = page_limit(request), _after(request)
        found = await self._tenancy.invitations.page(principal, after=after, limit=limit + 1)
        items = [_invitation(each) for each in found[:limit]]
        return _page(items, encode_cursor("", found[limit - 1].id) if len(found) > limit else None)

    async def invite(self, request: Request) -> Response:
        """``POST /api/v1/invitations``: the token, and the link with it, are in this answer and nowhere else."""
        principal = await self._authorize(request)
        given = parse(InvitationInput, await read_json(request))
        invitation, token = await self._tenancy.invitations.make(principal, given)
        document: NewInvitationDocument = {
            **_invitation(invitation),
            "token": token,
            "accept_url": f"{self._public_url}{JOIN_PATH}/{token}",
        }
        return JSONResponse(document, status_code=201, headers=_NO_STORE)

    async def withdraw(self, request: Request) -> Response:
        """``DELETE /api/v1/invitations/{id}``."""
        principal = await self._authorize(request)
        await self._tenancy.invitations.withdraw(
            principal, known_id(request.path_params["id"], "There is no such invitation.")
        )
        return Response(status_code=204)

    async def accept(self, request: Request) -> Response:
        """``POST /api/v1/invitations/accept``, by a program with the token of whoever was invited."""
        token = await self._verify(request)
        given = parse(AcceptInput, await read_json(request))
        return _answer(_member(await self._tenancy.invitations.accept(Claimant.of(token), given.token)))

    async def all_organizations(self, request: Request) -> Response:
        """``GET /api/v1/platform/organizations?limit=&cursor=``."""
        await self._authorize(request)
        limit, cursor = page_limit(request), decode_cursor(request, _SLUG)
        found = await self._tenancy.platform.page(after="" if cursor is None else cursor[0], limit=limit + 1)
        items = [_organization(each) for each in found[:limit]]
        return _page(items, encode_cursor(found[limit - 1].slug, found[limit - 1].id) if len(found) > limit else None)

    async def create_organization(self, request: Request) -> Response:
        """``POST /api/v1/platform/organizations``."""
        principal = await self._authorize(request)
        given = parse(NewOrganizationInput, await read_json(request))
        created = await self._tenancy.platform.create(principal, given)
        return _answer(_organization(created), status=201, location=f"{_PLATFORM}/{created.slug}")

    async def read_any(self, request: Request) -> Response:
        """``GET /api/v1/platform/organizations/{slug}``."""
        await self._authorize(request)
        return _answer(_organization(await self._tenancy.platform.named(_slug(request, "organization"))))

    async def decide(self, request: Request) -> Response:
        """``PUT /api/v1/platform/organizations/{slug}``: suspension, owner and plan."""
        principal = await self._authorize(request)
        given = parse(PlatformInput, await read_json(request))
        decided = await self._tenancy.platform.decide(
            principal, _slug(request, "organization"), given, expected=if_match(request)
        )
        return _answer(_organization(decided))

    async def delete_any(self, request: Request) -> Response:
        """``DELETE /api/v1/platform/organizations/{slug}``."""
        principal = await self._authorize(request)
        await self._tenancy.platform.delete_named(principal, _slug(request, "organization"), expected=if_match(request))
        return Response(status_code=204)

    async def _of(self, request: Request) -> Principal:
        """Return the principal of a request about its own organisation; any other is one that does not exist."""
        principal = await self._authorize(request)
        missing = "There is no such organization."
        if known_id(request.path_params["id"], missing) != principal.org_id:
            raise NotFoundError(missing)
        return principal

    def _workspace(self, principal: Principal, workspace: Workspace) -> WorkspaceDocument:
        return {
            "id": str(workspace.id),
            "slug": workspace.slug,
            "name": workspace.name,
            "mcp_url": f"{self._public_url}/mcp/{principal.org_slug}/{workspace.slug}",
            "created_at": workspace.created_at.isoformat(),
            "version": workspace.version,
        }


def _page(items: Sequence[object], cursor: str | None) -> Response:
    return JSONResponse({"items": items, "next_cursor": cursor})


def _answer(
    document: OrganizationDocument | WorkspaceDocument | MemberDocument,
    *,
    status: int = 200,
    location: str | None = None,
) -> Response:
    tag = entity_tag(document["version"], UUID(document["id"]))
    headers = {"ETag": tag, **({} if location is None else {"Location": location})}
    return JSONResponse(document, status_code=status, headers=headers)


def _after(request: Request) -> UUID:
    cursor = decode_cursor(request, _SLUG)
    return _FIRST if cursor is None else cursor[1]


def _slug(request: Request, thing: str) -> str:
    slug: str = request.path_params["slug"]
    if not is_slug(slug):
        raise NotFoundError(f"There is no such {thing}.")
    return slug


def _user(request: Request) -> UserId:
    return UserId(known_id(request.path_params["id"], "There is no such member."))


def _organization(organization: Organization) -> OrganizationDocument:
    plan = organization.plan
    return {
        "id": str(organization.id),
        "slug": organization.slug,
        "name": organization.name,
        "owner_id": None if organization.owner_id is None else str(organization.owner_id),
        "suspended": organization.suspended_at is not None,
        "join_rule": organization.join_rule,
        "requests_per_minute": plan.requests_per_minute,
        "max_members": plan.max_members,
        "max_upstreams": plan.max_upstreams,
        "max_sessions": plan.max_sessions,
        "max_sessions_per_user": plan.max_sessions_per_user,
        "created_at": organization.created_at.isoformat(),
        "version": organization.version,
    }


def _member(member: Member) -> MemberDocument:
    return {
        "id": str(member.user_id),
        "issuer": member.issuer,
        "subject": member.subject,
        "email": member.email,
        "role": member.assigned_role or member.role,
        "assigned_role": member.assigned_role,
        "created_at": member.created_at.isoformat(),
        "last_seen_at": member.last_seen_at.isoformat(),
        "version": member.version,
    }


def _invitation(invitation: Invitation) -> InvitationDocument:
    return {
        "id": str(invitation.id),
        "role": invitation.role,
        "email": invitation.email,
        "subject": invitation.subject,
        "created_by": str(invitation.created_by),
        "created_at": invitation.created_at.isoformat(),
        "expires_at": invitation.expires_at.isoformat(),
    }
