"""``/api/v1/prompts``."""

from __future__ import annotations

import re
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
from agentapi.preconditions import entity_tag, if_match
from agentapi.prompts.detector import findings_in
from agentapi.prompts.models import Prompt, PromptId, Scope
from agentapi.prompts.requests import ComposeInput, PromptInput, RollbackInput, VariableInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi.principal import Principal
    from agentapi.prompts.compose import Composition, Part
    from agentapi.prompts.detector import Finding
    from agentapi.prompts.documents import (
        CompositionDocument,
        ContentDocument,
        FindingDocument,
        PromptDocument,
        PromptPartDocument,
        PromptVersionDocument,
    )
    from agentapi.prompts.models import Content, PromptVersion
    from agentapi.prompts.registry import PromptRegistry

__all__ = ["PromptRoutes"]

_BASE = "/api/v1/prompts"
_MAX_BYTES = 1024 * 1024
_SLUG = re.compile(r"[a-z0-9-]{1,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


class PromptRoutes:
    """Read, change and compose prompts.

    Args:
        authorize: Gives the principal of a request.
        prompts: What is stored.
    """

    def __init__(self, *, authorize: Callable[[Request], Awaitable[Principal]], prompts: PromptRegistry) -> None:
        self._authorize = authorize
        self._prompts = prompts

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(_BASE, self.create, methods=["POST"]),
            Route(_BASE, self.page, methods=["GET"]),
            Route(f"{_BASE}/compose", self.compose, methods=["POST"]),
            Route(f"{_BASE}/{{id}}", self.read, methods=["GET"]),
            Route(f"{_BASE}/{{id}}", self.replace, methods=["PUT"]),
            Route(f"{_BASE}/{{id}}", self.delete, methods=["DELETE"]),
            Route(f"{_BASE}/{{id}}/versions", self.versions, methods=["GET"]),
            Route(f"{_BASE}/{{id}}/rollback", self.roll_back, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """``POST /api/v1/prompts``."""
        principal = await self._authorize(request)
        require(principal, Permission.PROMPTS_WRITE_OWN)
        given = parse(PromptInput, await read_json(request, max_bytes=_MAX_BYTES))
        self._prompts.require_write(principal, given.scope)
        workspace = None if given.workspace is None else await self._prompts.workspace(principal, given.workspace)
        now = datetime.now(UTC)
        prompt = Prompt(
            id=PromptId(uuid4()),
            org_id=None if given.scope is Scope.GLOBAL else principal.org_id,
            scope=given.scope,
            workspace_id=None if workspace is None else workspace.id,
            owner_id=principal.user_id if given.scope is Scope.USER else None,
            name=given.name,
            content=given.content(),
            version=1,
            created_by=principal.user_id,
            created_at=now,
            updated_by=principal.user_id,
            updated_at=now,
        )
        await self._prompts.create(principal, prompt)
        headers = {"Location": f"{_BASE}/{prompt.id}"}
        return _answer(prompt, given.workspace, status=201, headers=headers)

    async def page(self, request: Request) -> Response:
        """``GET /api/v1/prompts?limit=&cursor=``."""
        principal = await self._authorize(request)
        limit, after = page_limit(request), decode_cursor(request, _SLUG)
        found = await self._prompts.page(principal, after=after, limit=limit + 1)
        slugs = await self._prompts.workspace_slugs(principal) if any(prompt.workspace_id for prompt in found) else {}
        items = [
            _document(prompt, None if prompt.workspace_id is None else slugs.get(prompt.workspace_id))
            for prompt in found[:limit]
        ]
        last = found[limit - 1] if len(found) > limit else None
        following = None if last is None else encode_cursor(last.name, last.id)
        return JSONResponse({"items": items, "next_cursor": following})

    async def read(self, request: Request) -> Response:
        """``GET /api/v1/prompts/{id}``."""
        principal, stored = await self._stored(request)
        return _answer(stored, await self._slug(principal, stored))

    async def replace(self, request: Request) -> Response:
        """``PUT /api/v1/prompts/{id}``: its next version; ``If-Match`` names the one that the change was made to."""
        principal, stored = await self._stored(request)
        self._prompts.require_write(principal, stored.scope)
        given = parse(PromptInput, await read_json(request, max_bytes=_MAX_BYTES))
        slug = await self._slug(principal, stored)
        there = {"scope": stored.scope, "workspace": slug, "name": stored.name}
        moved = [field for field, value in there.items() if getattr(given, field) != value]
        if moved:
            fields = tuple(FieldError(f"/{field}", "It stays as it is; create another prompt.") for field in moved)
            raise InvalidRequestError(INVALID_BODY, fields)
        updated = await self._prompts.update(principal, stored, given.content(), expected=if_match(request))
        return _answer(updated, slug)

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/v1/prompts/{id}``."""
        principal, stored = await self._stored(request)
        await self._prompts.delete(principal, stored, expected=if_match(request))
        return Response(status_code=204)

    async def versions(self, request: Request) -> Response:
        """``GET /api/v1/prompts/{id}/versions?limit=&cursor=``, the newest first."""
        principal, stored = await self._stored(request)
        limit, after = page_limit(request), decode_cursor(request, _NUMBER)
        before = None if after is None else int(after[0])
        found = await self._prompts.versions(principal, stored, before=before, limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        following = None if last is None else encode_cursor(str(last.version), stored.id)
        return JSONResponse({"items": [_version(each) for each in found[:limit]], "next_cursor": following})

    async def roll_back(self, request: Request) -> Response:
        """``POST /api/v1/prompts/{id}/rollback``: what an earlier version held becomes the next one."""
        principal, stored = await self._stored(request)
        self._prompts.require_write(principal, stored.scope)
        given = parse(RollbackInput, await read_json(request))
        updated = await self._prompts.roll_back(principal, stored, given.version, expected=if_match(request))
        return _answer(updated, await self._slug(principal, stored))

    async def compose(self, request: Request) -> Response:
        """``POST /api/v1/prompts/compose``: the text, and which part of it came from where."""
        principal = await self._authorize(request)
        require(principal, Permission.PROMPTS_GET)
        given = parse(ComposeInput, await read_json(request, max_bytes=_MAX_BYTES))
        composed = await self._prompts.compose(principal, given.workspace, given.variables)
        return JSONResponse(_composition(composed))

    async def _stored(self, request: Request) -> tuple[Principal, Prompt]:
        principal = await self._authorize(request)
        prompt_id = PromptId(known_id(request.path_params["id"], "There is no such prompt."))
        return principal, await self._prompts.prompt(principal, prompt_id)

    async def _slug(self, principal: Principal, prompt: Prompt) -> str | None:
        if prompt.workspace_id is None:
            return None
        return (await self._prompts.workspace_slugs(principal)).get(prompt.workspace_id)


def _answer(
    prompt: Prompt, workspace: str | None, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(
        _document(prompt, workspace),
        status_code=status,
        headers={"ETag": entity_tag(prompt.version), **(headers or {})},
    )


def _document(prompt: Prompt, workspace: str | None) -> PromptDocument:
    return {
        "id": str(prompt.id),
        "scope": prompt.scope,
        "workspace": workspace,
        "name": prompt.name,
        **_content(prompt.content),
        "version": prompt.version,
        "created_by": str(prompt.created_by),
        "created_at": prompt.created_at.isoformat(),
        "updated_by": str(prompt.updated_by),
        "updated_at": prompt.updated_at.isoformat(),
    }


def _version(version: PromptVersion) -> PromptVersionDocument:
    return {
        "version": version.version,
        **_content(version.content),
        "updated_by": str(version.updated_by),
        "updated_at": version.updated_at.isoformat(),
    }


def _content(content: Content) -> ContentDocument:
    return {
        "text": content.text,
        "variables": [VariableInput.of(each).model_dump(mode="json") for each in content.variables],
        "priority": content.priority,
        "description": content.description,
        "enabled": content.enabled,
        "findings": [_finding(each) for each in findings_in(content.text)],
    }


def _composition(composed: Composition) -> CompositionDocument:
    return {"text": composed.text, "boundary": composed.boundary, "parts": [_part(part) for part in composed.parts]}


def _part(part: Part) -> PromptPartDocument:
    prompt = part.prompt
    return {
        "id": str(prompt.id),
        "scope": prompt.scope,
        "name": prompt.name,
        "version": prompt.version,
        "priority": prompt.content.priority,
        "start": part.start,
        "end": part.end,
        "values": [
            {"name": span.name, "start": part.start + span.start, "end": part.start + span.end} for span in part.values
        ],
        "findings": [_finding(each, part.start) for each in part.findings],
    }


def _finding(finding: Finding, start: int = 0) -> FindingDocument:
    return {"suspicion": finding.suspicion, "start": start + finding.start, "end": start + finding.end}
