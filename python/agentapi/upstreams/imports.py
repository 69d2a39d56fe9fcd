"""``POST /api/v1/mcp/import``: the servers of an ``mcpServers`` JSON as upstreams of a workspace."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, ValidationError
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentapi.api_input import read_json
from agentapi.errors import AgentAPIError, InvalidRequestError
from agentapi.upstreams.mcp_inputs import declared_inputs
from agentapi.upstreams.mcp_servers import declared_server, entries, is_disabled
from agentapi.upstreams.models import Scope, Transport
from agentapi.upstreams.requests import UpstreamInput

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi.principal import Principal
    from agentapi.tenancy.models import Workspace
    from agentapi.upstreams.mcp_servers import DeclaredServer
    from agentapi.upstreams.registration import Registration
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["ImportReport", "ImportRoutes"]

_MAX_BODY_BYTES = 1024 * 1024
_MAX_SERVERS = 200
_FLAGS = {"true": True, "false": False}


class Status(StrEnum):
    """What became of one entry."""

    CREATED = "created"
    EXISTS = "exists"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ImportedServer:
    """One entry of the file, and what became of it; in a dry run, what would have."""

    entry: str
    name: str | None
    status: Status
    reason: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of all entries."""

    workspace: str
    dry_run: bool
    servers: tuple[ImportedServer, ...]


@dataclass(frozen=True, slots=True)
class _Target:
    workspace: Workspace
    scope: Scope
    dry_run: bool
    inputs: dict[str, dict[str, Any]]
    """What the file declares that its user is asked for."""
    taken: set[str] = field(default_factory=set)
    """Names of the entries before."""


class ImportRoutes:
    """Takes over servers from the configuration file of an MCP client.

    Args:
        authorize: Gives the principal of a request.
        registry: The stored upstreams.
        registration: Checks and builds upstreams.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        registry: UpstreamRegistry,
        registration: Registration,
    ) -> None:
        self._authorize = authorize
        self._registry = registry
        self._registration = registration

    def routes(self) -> list[Route]:
        """Return the route, for the application to mount."""
        return [Route("/api/v1/mcp/import", self.take, methods=["POST"])]

    async def take(self, request: Request) -> Response:
        """``POST /api/v1/mcp/import?workspace=&dry_run=&scope=``, with the file as it is for a body."""
        principal = await self._authorize(request)
        query = request.query_params
        scope = _scope(query.get("scope", Scope.ORGANIZATION))
        dry_run = _FLAGS.get(query.get("dry_run", "false"))
        if dry_run is None:
            raise InvalidRequestError("The parameter 'dry_run' is true or false.")
        self._registry.require_write(principal, scope)
        body = await read_json(request, max_bytes=_MAX_BODY_BYTES)
        found = entries(body)
        if len(found) > _MAX_SERVERS:
            raise InvalidRequestError(f"The file has more than {_MAX_SERVERS} servers; import it in parts.")
        workspace = await self._registry.workspace(principal, query.get("workspace", "main"))
        target = _Target(workspace, scope, dry_run, declared_inputs(body))
        results = [await self._one(principal, target, label, entry) for label, entry in found.items()]
        return JSONResponse(asdict(ImportReport(workspace.slug, dry_run, tuple(results))))

    async def _one(self, principal: Principal, target: _Target, label: str, entry: object) -> ImportedServer:
        try:
            return await self._taken_over(principal, target, label, entry)
        except InvalidRequestError as error:
            reason = " ".join(field.detail for field in error.fields) or error.message
        except ValidationError as error:
            reason = "; ".join(detail["msg"] for detail in error.errors(include_input=False))
        except AgentAPIError as error:
            reason = error.message
        return ImportedServer(label, None, Status.REFUSED, reason)

    async def _taken_over(self, principal: Principal, target: _Target, label: str, entry: object) -> ImportedServer:
        if is_disabled(entry):
            raise InvalidRequestError("The entry is disabled.")
        # No command line is run, so whose home directory it would have does not matter.
        declared = declared_server(label, entry, Path("/"), target.inputs)
        name = declared.name
        if name in target.taken:
            raise InvalidRequestError(f"Another entry would be called '{name}' too; rename one.")
        given = self._input(target, declared, entry)
        if await self._registry.named(principal, target.workspace.id, name) is not None:
            return ImportedServer(label, name, Status.EXISTS, "The workspace has an upstream of this name.")
        await self._registration.check(given)
        target.taken.add(name)
        if target.dry_run:
            return ImportedServer(label, name, Status.CREATED)
        upstream = self._registration.new(principal, target.workspace, given)
        await self._registry.create(principal, upstream)
        return ImportedServer(label, name, Status.CREATED, id=str(upstream.id))

    def _input(self, target: _Target, declared: DeclaredServer, entry: object) -> UpstreamInput:
        command = None
        if declared.transport is Transport.STDIO:
            command = self._allowed(declared, entry)
        return UpstreamInput(
            workspace=target.workspace.slug,
            name=declared.name,
            transport=declared.transport,
            endpoint=declared.endpoint,
            command=command,
            auth=declared.auth,
            auth_header=declared.auth_header,
            secret=None if declared.secret is None else SecretStr(declared.secret),
            credential_form=declared.form,
            scope=target.scope,
        )

    def _allowed(self, declared: DeclaredServer, entry: object) -> str:
        """Return the name of the allowed command that the entry names, and nothing besides.

        Raises:
            InvalidRequestError: It gives a command line, which is the platform admin's alone to give.
        """
        named = "" if declared.command is None else declared.command.command
        bare = isinstance(entry, dict) and not entry.get("args") and not entry.get("env")
        if bare and named in self._registration.commands:
            return named
        allowed = ", ".join(self._registration.commands) or "none"
        raise InvalidRequestError(
            "A stdio server must name a command that the platform admin allows, without args and env;"
            f" these are allowed: {allowed}."
        )


def _scope(value: str) -> Scope:
    try:
        return Scope(value)
    except ValueError:
        raise InvalidRequestError(f"The parameter 'scope' is one of {', '.join(Scope)}.") from None
