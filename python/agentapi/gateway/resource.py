"""The MCP endpoints as OAuth protected resources: their identifiers, metadata and challenges (RFC 9728)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from agentapi.errors import InsufficientScopeError, NotFoundError, UnauthenticatedError
from agentapi.problems import bearer_challenge, rpc_error_response
from agentapi.tenancy.models import is_slug

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

__all__ = ["NO_WORKSPACE", "Place", "ProtectedResource"]

NO_WORKSPACE = "There is no such workspace."


@dataclass(frozen=True, slots=True)
class Place:
    """Which endpoint a request is for: a workspace, or a toolset of one."""

    org: str
    workspace: str
    toolset: str | None = None
    path: str = field(init=False, compare=False)
    """The names as they stand in addresses."""

    def __post_init__(self) -> None:
        """Join the names once; a place is remembered, and asked for its path with each request."""
        object.__setattr__(self, "path", "/".join(self.names))

    @classmethod
    def of(cls, scope: Scope) -> Place:
        """Return the place that a routed request is for.

        Raises:
            NotFoundError: One of the names is none, so it must not reach a header; or a slash was written so that
                not everybody on the way takes it for one.
        """
        path = scope["path_params"]
        if b"%2f" in scope.get("raw_path", b"").lower():
            raise NotFoundError(NO_WORKSPACE)
        return _place(path["org"], path["workspace"], path.get("toolset"))

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of the address."""
        return (self.org, self.workspace) if self.toolset is None else (self.org, self.workspace, self.toolset)

    @property
    def parent(self) -> Place | None:
        """The workspace of a toolset."""
        return Place(self.org, self.workspace) if self.toolset is not None else None


@lru_cache(maxsize=1024)
def _place(org: str, workspace: str, toolset: str | None) -> Place:
    place = Place(org, workspace, toolset)
    if not all(map(is_slug, place.names)):
        raise NotFoundError(NO_WORKSPACE)
    return place


class ProtectedResource:
    """The metadata of each MCP endpoint as an OAuth protected resource (RFC 9728).

    It is the same for every well-formed name, so that it tells nobody which workspaces exist.
    """

    def __init__(self, *, public_url: str, issuers: tuple[str, ...], scopes: tuple[str, ...]) -> None:
        self._public_url = public_url.rstrip("/")
        # An issuer that is no URL, like that of `agentapi dev`, has no authorization server to discover.
        self._issuers = tuple(issuer for issuer in issuers if issuer.startswith(("https://", "http://")))
        self.scopes = scopes

    def identifier(self, place: Place) -> str:
        """Return the resource identifier: the canonical URL of the endpoint (RFC 8707)."""
        return f"{self._public_url}/mcp/{place.path}"

    def audiences(self, place: Place) -> tuple[str, ...]:
        """Return the audiences that a token for the endpoint may have.

        Whoever may use a workspace may use what was selected from it, so a token for the workspace is good for each
        of its toolsets; one for a toolset is good for nothing else.
        """
        parent = place.parent
        own = self.identifier(place)
        return (own,) if parent is None else (own, self.identifier(parent))

    def metadata_url(self, place: Place) -> str:
        """Return the path-inserted address of the metadata (RFC 9728, section 3.1)."""
        return f"{self._public_url}/.well-known/oauth-protected-resource/mcp/{place.path}"

    def challenge(self, error: UnauthenticatedError | InsufficientScopeError, place: Place) -> str:
        """Return the ``WWW-Authenticate`` of a refusal (RFC 6750, section 3; RFC 9728, section 5.1)."""
        return bearer_challenge(error, resource_metadata=self.metadata_url(place), scopes=self.scopes)

    async def metadata(self, request: Request) -> Response:
        """Serve the metadata document (RFC 9728, section 3.2)."""
        try:
            place = Place.of(request.scope)
        except NotFoundError as error:
            return rpc_error_response(error)
        document = {
            "resource": self.identifier(place),
            "bearer_methods_supported": ["header"],
            "resource_name": "AgentAPI",
        }
        if self._issuers:
            document["authorization_servers"] = list(self._issuers)
        if self.scopes:
            document["scopes_supported"] = list(self.scopes)
        # Browser-based clients read it across origins; it holds nothing that is not public.
        return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*", "Cache-Control": "max-age=3600"})
