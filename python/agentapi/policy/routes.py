"""Policies, toolsets and approvals under ``/api/v1/mcp``."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.api_input import (
    INVALID_BODY,
    decode_cursor,
    encode_cursor,
    known_id,
    page_limit,
    parse,
    read_json,
)
from agentapi.errors import FieldError, InvalidRequestError
from agentapi.identity.permissions import Permission, require
from agentapi.policy.models import ApprovalId, ApprovalState, Toolset, ToolsetId
from agentapi.policy.patterns import Patterns
from agentapi.policy.requests import PolicyInput, ToolsetInput
from agentapi.preconditions import entity_tag, if_match

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi.policy.documents import ApprovalDocument, PolicyDocument, ToolsetDocument
    from agentapi.policy.models import Approval, StoredPolicy
    from agentapi.policy.registry import PolicyRegistry
    from agentapi.principal import Principal
    from agentapi.tenancy.models import Workspace
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["PolicyRoutes"]

_BASE = "/api/v1/mcp"
_MAX_POLICY_BYTES = 1024 * 1024
_SLUG = re.compile(r"[a-z0-9-]{1,63}")
_TOOL = re.compile(r"[^\x00\ud800-\udfff]{1,128}")
_DEFAULT_WORKSPACE = "main"


class PolicyRoutes:
    """Read and change what holds in a workspace.

    Args:
        authorize: Gives the principal of a request.
        policies: What is stored.
        upstreams: Knows the workspaces.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        policies: PolicyRegistry,
        upstreams: UpstreamRegistry,
    ) -> None:
        self._authorize = authorize
        self._policies = policies
        self._upstreams = upstreams

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(f"{_BASE}/policy", self.read_policy, methods=["GET"]),
            Route(f"{_BASE}/policy", self.replace_policy, methods=["PUT"]),
            Route(f"{_BASE}/toolsets", self.create_toolset, methods=["POST"]),
            Route(f"{_BASE}/toolsets", self.page_of_toolsets, methods=["GET"]),
            Route(f"{_BASE}/toolsets/{{id}}", self.read_toolset, methods=["GET"]),
            Route(f"{_BASE}/toolsets/{{id}}", self.replace_toolset, methods=["PUT"]),
            Route(f"{_BASE}/toolsets/{{id}}", self.delete_toolset, methods=["DELETE"]),
            Route(f"{_BASE}/approvals", self.page_of_approvals, methods=["GET"]),
            Route(f"{_BASE}/approvals/{{id}}/approve", self.approve, methods=["POST"]),
            Route(f"{_BASE}/approvals/{{id}}/hold", self.hold, methods=["POST"]),
        ]

    async def read_policy(self, request: Request) -> Response:
        """``GET /api/v1/mcp/policy?workspace=``."""
        principal = await self._authorize(request)
        workspace = await self._workspace(request, principal)
        return _policy_answer(await self._policies.policy(principal, workspace), workspace)

    async def replace_policy(self, request: Request) -> Response:
        """``PUT /api/v1/mcp/policy?workspace=``: the whole policy; ``If-Match`` names the version it was made to."""
        principal = await self._authorize(request)
        require(principal, Permission.POLICY_WRITE)
        document = parse(PolicyInput, await read_json(request, max_bytes=_MAX_POLICY_BYTES))
        workspace = await self._workspace(request, principal)
        stored = await self._policies.put_policy(principal, workspace, document, expected=if_match(request))
        return _policy_answer(stored, workspace)

    async def create_toolset(self, request: Request) -> Response:
        """``POST /api/v1/mcp/toolsets``."""
        principal = await self._authorize(request)
        require(principal, Permission.POLICY_WRITE)
        given = parse(ToolsetInput, await read_json(request, max_bytes=_MAX_POLICY_BYTES))
        workspace = await self._upstreams.workspace(principal, given.workspace)
        now = datetime.now(UTC)
        toolset = Toolset(
            id=ToolsetId(uuid4()),
            org_id=principal.org_id,
            workspace_id=workspace.id,
            name=given.name,
            description=given.description,
            tools=Patterns(given.tools),
            prompts=Patterns(given.prompts),
            resources=Patterns(given.resources),
            search_mode=given.search_mode,
            version=1,
            created_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        await self._policies.create_toolset(principal, toolset)
        location = f"{_BASE}/toolsets/{toolset.id}"
        return _toolset_answer(toolset, workspace.slug, status=201, headers={"Location": location})

    async def page_of_toolsets(self, request: Request) -> Response:
        """``GET /api/v1/mcp/toolsets?workspace=&limit=&cursor=``."""
        principal = await self._authorize(request)
        limit, after = page_limit(request), decode_cursor(request, _SLUG)
        workspace = await self._workspace(request, principal)
        found = await self._policies.page_of_toolsets(principal, workspace, after=after, limit=limit + 1)
        items = [_toolset_document(toolset, workspace.slug) for toolset in found[:limit]]
        last = found[limit - 1] if len(found) > limit else None
        return JSONResponse(
            {"items": items, "next_cursor": None if last is None else encode_cursor(last.name, last.id)}
        )

    async def read_toolset(self, request: Request) -> Response:
        """``GET /api/v1/mcp/toolsets/{id}``."""
        principal = await self._authorize(request)
        toolset = await self._policies.toolset(principal, _toolset_id(request))
        return _toolset_answer(toolset, await self._slug(principal, toolset))

    async def replace_toolset(self, request: Request) -> Response:
        """``PUT /api/v1/mcp/toolsets/{id}``; ``If-Match`` names the version that the change was made to."""
        principal = await self._authorize(request)
        stored = await self._policies.toolset(principal, _toolset_id(request))
        require(principal, Permission.POLICY_WRITE)
        given = parse(ToolsetInput, await read_json(request, max_bytes=_MAX_POLICY_BYTES))
        slug = await self._slug(principal, stored)
        if given.workspace != slug:
            moved = FieldError("/workspace", "A toolset stays in its workspace; create another one.")
            raise InvalidRequestError(INVALID_BODY, (moved,))
        changed = replace(
            stored,
            name=given.name,
            description=given.description,
            tools=Patterns(given.tools),
            prompts=Patterns(given.prompts),
            resources=Patterns(given.resources),
            search_mode=given.search_mode,
        )
        updated = await self._policies.update_toolset(principal, changed, expected=if_match(request))
        return _toolset_answer(updated, slug)

    async def delete_toolset(self, request: Request) -> Response:
        """``DELETE /api/v1/mcp/toolsets/{id}``."""
        principal = await self._authorize(request)
        await self._policies.delete_toolset(principal, _toolset_id(request), expected=if_match(request))
        return Response(status_code=204)

    async def page_of_approvals(self, request: Request) -> Response:
        """``GET /api/v1/mcp/approvals?workspace=&state=&limit=&cursor=``."""
        principal = await self._authorize(request)
        limit, after = page_limit(request), decode_cursor(request, _TOOL)
        state = _state(request.query_params.get("state"))
        workspace = await self._workspace(request, principal)
        found = await self._policies.page_of_approvals(principal, workspace, state=state, after=after, limit=limit + 1)
        items = [_approval_document(approval) for approval in found[:limit]]
        last = found[limit - 1] if len(found) > limit else None
        return JSONResponse(
            {"items": items, "next_cursor": None if last is None else encode_cursor(last.tool, last.id)}
        )

    async def approve(self, request: Request) -> Response:
        """``POST /api/v1/mcp/approvals/{id}/approve``."""
        return await self._decide(request, ApprovalState.APPROVED)

    async def hold(self, request: Request) -> Response:
        """``POST /api/v1/mcp/approvals/{id}/hold``."""
        return await self._decide(request, ApprovalState.HELD)

    async def _decide(self, request: Request, state: ApprovalState) -> Response:
        principal = await self._authorize(request)
        approval_id = ApprovalId(known_id(request.path_params["id"], "There is no such approval."))
        return JSONResponse(_approval_document(await self._policies.decide(principal, approval_id, state)))

    async def _workspace(self, request: Request, principal: Principal) -> Workspace:
        slug = request.query_params.get("workspace", _DEFAULT_WORKSPACE)
        return await self._upstreams.workspace(principal, slug)

    async def _slug(self, principal: Principal, toolset: Toolset) -> str:
        return (await self._upstreams.workspace_slugs(principal))[toolset.workspace_id]


def _toolset_id(request: Request) -> ToolsetId:
    return ToolsetId(known_id(request.path_params["id"], "There is no such toolset."))


def _state(value: str | None) -> ApprovalState | None:
    if value is None:
        return None
    try:
        return ApprovalState(value)
    except ValueError:
        raise InvalidRequestError(f"The parameter 'state' is one of {', '.join(ApprovalState)}.") from None


def _policy_answer(stored: StoredPolicy, workspace: Workspace) -> Response:
    document: PolicyDocument = {
        "workspace": workspace.slug,
        "version": stored.version,
        "updated_at": None if stored.updated_at is None else stored.updated_at.isoformat(),
        "updated_by": None if stored.updated_by is None else str(stored.updated_by),
        "policy": stored.document.model_dump(mode="json", exclude_none=True),
    }
    return JSONResponse(document, headers={"ETag": entity_tag(stored.version)})


def _toolset_answer(
    toolset: Toolset, workspace: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(
        _toolset_document(toolset, workspace),
        status_code=status,
        headers={"ETag": entity_tag(toolset.version), **(headers or {})},
    )


def _toolset_document(toolset: Toolset, workspace: str) -> ToolsetDocument:
    return {
        "id": str(toolset.id),
        "workspace": workspace,
        "name": toolset.name,
        "description": toolset.description,
        "tools": list(toolset.tools.texts),
        "prompts": list(toolset.prompts.texts),
        "resources": list(toolset.resources.texts),
        "search_mode": toolset.search_mode,
        "version": toolset.version,
        "created_at": toolset.created_at.isoformat(),
        "updated_at": toolset.updated_at.isoformat(),
    }


def _approval_document(approval: Approval) -> ApprovalDocument:
    return {
        "id": str(approval.id),
        "upstream": approval.upstream,
        "upstream_id": str(approval.upstream_id),
        "tool": approval.tool,
        "fingerprint": approval.fingerprint.hex(),
        "definition": approval.definition,
        "state": approval.state,
        "private": approval.owner_id is not None,
        "first_seen_at": approval.first_seen_at.isoformat(),
        "decided_at": None if approval.decided_at is None else approval.decided_at.isoformat(),
        "decided_by": None if approval.decided_by is None else str(approval.decided_by),
    }
