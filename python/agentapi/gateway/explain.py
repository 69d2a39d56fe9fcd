"""Why somebody sees a tool, or does not, and may call it, or not: every check that a request meets, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route
from typing_extensions import TypedDict

from agentapi.errors import ConflictError, InvalidRequestError, NotFoundError, UpstreamError
from agentapi.gateway.listing import Kind
from agentapi.gateway.names import upstream_of
from agentapi.gateway.policy import subject_of
from agentapi.gateway.scopes import scopes_of
from agentapi.gateway.unknown import UnknownToolError
from agentapi.identity.permissions import Permission, permits, require
from agentapi.operation import Id
from agentapi.policy.decisions import Outcome, Reason, conclude, decide
from agentapi.policy.models import Actor
from agentapi.principal import Principal, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from agentapi.gateway.catalogue import Catalogue
    from agentapi.gateway.items import CatalogueItem
    from agentapi.gateway.policy import Policy
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.policy.decisions import Verdict
    from agentapi.policy.registry import WorkspacePolicy
    from agentapi.tenancy.directory import MemberDirectory
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.registry import UpstreamRegistry, WorkspaceView

__all__ = ["Explainer", "ExplanationDocument"]

_MAX_NAME = 1000
_HIDDEN = Reason("hidden", Outcome.HIDES, "There is no such tool for you, or your organisation's policy hides it.")


class ReasonDocument(TypedDict):
    """One check and what came of it."""

    check: str
    outcome: Outcome
    detail: str


class FoundDocument(TypedDict):
    """How a tool stands; where there is none, its names are null."""

    name: str | None
    upstream: str | None
    upstream_tool: str | None
    visible: bool
    callable: bool
    required_scopes: list[str]
    reasons: list[ReasonDocument]


class SomebodyDocument(TypedDict):
    """Whom the answer is about."""

    user_id: Id
    subject: str
    role: Role
    scopes: list[str]


ExplanationDocument = TypedDict(
    "ExplanationDocument",
    {
        "workspace": str,
        "toolset": str | None,
        "asked": str,
        "as": SomebodyDocument,
        "name": str | None,
        "upstream": str | None,
        "upstream_tool": str | None,
        "visible": bool,
        "callable": bool,
        "required_scopes": list[str],
        "reasons": list[ReasonDocument],
    },
)
"""Every check that a request meets."""


class Explainer:
    """Answers ``GET /api/v1/mcp/explain``.

    Args:
        authorize: Gives the principal of a request.
        upstreams: The registered upstreams.
        catalogue: What they list.
        policy: What holds in each workspace.
        members: Who the organisation has seen.
        issuers: What is asked of a token before any policy.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        upstreams: UpstreamRegistry,
        catalogue: Catalogue,
        policy: Policy,
        members: MemberDirectory,
        issuers: IssuerDirectory,
    ) -> None:
        self._authorize = authorize
        self._upstreams = upstreams
        self._catalogue = catalogue
        self._policy = policy
        self._members = members
        self._issuers = issuers

    def routes(self) -> list[Route]:
        """Return the route, for the application to mount."""
        return [Route("/api/v1/mcp/explain", self.explain, methods=["GET"])]

    async def explain(self, request: Request) -> Response:
        """``GET /api/v1/mcp/explain?tool=&workspace=&toolset=&as=&scope=``.

        ``as`` is a user id, a subject or an email address, and needs an admin unless it is the caller. The scopes of
        somebody else's token are not known: ``scope`` (repeatable) says which to assume.
        """
        caller = await self._authorize(request)
        query = request.query_params
        name = query.get("tool", "")
        if not 0 < len(name) <= _MAX_NAME:
            raise InvalidRequestError("The parameter 'tool' is the name of a tool.")
        somebody = await self._somebody(caller, query.get("as"))
        if "scope" in query:
            somebody = replace(somebody, scopes=frozenset(query.getlist("scope")))
        workspace, toolset = query.get("workspace", "main"), query.get("toolset")
        found = await self._explain(caller, somebody, workspace, toolset, name)
        who: SomebodyDocument = {
            "user_id": str(somebody.user_id),
            "subject": somebody.subject,
            "role": somebody.role,
            "scopes": sorted(somebody.scopes),
        }
        document: ExplanationDocument = {
            "workspace": workspace,
            "toolset": toolset,
            "asked": name,
            "as": who,
            **found,
        }
        return JSONResponse(document)

    async def _somebody(self, caller: Principal, who: str | None) -> Principal:
        if who is None or who in {caller.subject, str(caller.user_id)}:
            return caller
        require(caller, Permission.EXPLAIN_OTHERS)
        members = await self._members.find(caller, who)
        if not members:
            raise NotFoundError("The organisation has never seen this user; they must sign in once.")
        if len(members) > 1:
            raise ConflictError("Several members are called so; give the user id.")
        member = members[0]
        return Principal(
            member.user_id, caller.org_id, caller.org_slug, member.role, member.issuer, member.subject, frozenset()
        )

    async def _explain(
        self, caller: Principal, somebody: Principal, workspace: str, toolset: str | None, name: str
    ) -> FoundDocument:
        view = await self._upstreams.view(somebody, workspace)
        holds = await self._policy.holds(view, somebody)
        chosen = holds.toolset(toolset)
        reasons, needed = self._token(somebody)
        of_the_token = tuple(reasons)
        original = _original(holds, name, reasons)
        tool = await self._listed(caller, somebody, view, original, reasons)
        if tool is None:
            verdict = conclude(reasons, required=needed)
        else:
            reasons += _naming(holds, tool)
            if tool.profile.fingerprint not in holds.known(tool.upstream, tool.upstream_name):
                reasons.append(Reason("approval", Outcome.IGNORED, "Nobody has met this definition of the tool yet."))
            told = decide(holds.policy, Actor(somebody.role, somebody.scopes), subject_of(holds, tool), chosen)
            reasons += told.reasons[:-1]
            verdict = conclude(reasons, required=told.required_scopes | needed, missing=told.missing_scopes)
        if not verdict.visible and not permits(caller, Permission.POLICY_READ):
            # Whoever may not read policies learns no more of what is hidden than a call would tell.
            return _document(conclude([*of_the_token, _HIDDEN], required=needed), None, None)
        return _document(verdict, tool, None if tool is None else holds.policy.renames.renamed(tool.name))

    def _token(self, somebody: Principal) -> tuple[list[Reason], frozenset[str]]:
        """Return what comes of the checks of the token that precede any policy, and the scopes that they ask for."""
        issuer = somebody.issuer
        if issuer not in self._issuers.issuers:
            detail = f"The gateway takes no tokens of the issuer '{issuer}' any more."
            return [Reason("issuer", Outcome.HIDES, detail)], frozenset()
        asked = {
            "Every request needs": frozenset(self._issuers.required_scopes(issuer)),
            "Listing and calling tools needs": (
                scopes_of("tools/call", {}) if self._issuers.asks_operation_scopes(issuer) else frozenset()
            ),
        }
        reasons = [
            _scopes_reason(f"{words} {_named(scopes)} of a token of '{issuer}'", scopes - somebody.scopes)
            for words, scopes in asked.items()
            if scopes
        ]
        return reasons, frozenset().union(*asked.values())

    async def _listed(
        self, caller: Principal, somebody: Principal, view: WorkspaceView, name: str, reasons: list[Reason]
    ) -> CatalogueItem | None:
        """Return the tool if its upstream lists it, telling ``reasons`` how far the search came."""
        upstream = await self._upstream(caller, somebody, view, name, reasons)
        if upstream is None:
            return None
        try:
            tool = await self._catalogue.find(view.upstreams, somebody, Kind.TOOLS, name)
        except UnknownToolError:
            detail = f"The upstream '{upstream.name}' lists no tool of that name to this user."
            reasons.append(Reason("listed", Outcome.HIDES, detail))
            return None
        except UpstreamError as error:
            reasons.append(Reason("listed", Outcome.HIDES, f"The upstream cannot be listed now: {error.message}"))
            return None
        shown = tool.upstream_name[:128]
        reasons.append(Reason("listed", Outcome.PASSES, f"The upstream '{upstream.name}' lists it as '{shown}'."))
        return tool

    async def _upstream(
        self, caller: Principal, somebody: Principal, view: WorkspaceView, name: str, reasons: list[Reason]
    ) -> Upstream | None:
        if self._catalogue.is_bare(view.upstreams):
            wanted = view.upstreams[0].name
        else:
            prefix = upstream_of(name)
            if prefix is None:
                reasons.append(Reason("upstream", Outcome.HIDES, "The name does not begin with an upstream's name."))
                return None
            wanted = prefix
        upstream = await self._upstreams.named(somebody, view.workspace.id, wanted)
        private = upstream is not None and upstream.owner_id not in {None, caller.user_id}
        if upstream is None or private:
            # Somebody's private upstream is nobody else's business, an admin's neither.
            reasons.append(Reason("upstream", Outcome.HIDES, f"The workspace has no upstream '{wanted[:32]}'."))
            return None
        if not upstream.enabled:
            reasons.append(Reason("upstream", Outcome.HIDES, f"The upstream '{upstream.name}' is disabled."))
            return None
        reasons.append(Reason("upstream", Outcome.PASSES, f"The upstream '{upstream.name}' is enabled."))
        return upstream


def _scopes_reason(words: str, missing: frozenset[str]) -> Reason:
    if missing:
        return Reason("token_scopes", Outcome.HIDES, f"{words}, and this one lacks {_named(missing)}.")
    return Reason("token_scopes", Outcome.PASSES, f"{words}.")


def _named(scopes: frozenset[str]) -> str:
    return f"the scope{'s' * (len(scopes) != 1)} {', '.join(sorted(scopes))}"


def _original(holds: WorkspacePolicy, name: str, reasons: list[Reason]) -> str:
    """Return the catalogue's name of the tool that ``name`` is about: by its new name, or by the one before that."""
    renames = holds.policy.renames
    owner = renames.taken_by(name)
    if owner is not None:
        reasons.append(Reason("name", Outcome.PASSES, f"The policy gives this name to the tool '{owner}'."))
        return owner
    new = renames.renamed(name)
    if new not in {None, name}:
        reasons.append(Reason("name", Outcome.IGNORED, f"The policy renames this tool: clients call it '{new}'."))
    return name


def _naming(holds: WorkspacePolicy, tool: CatalogueItem) -> list[Reason]:
    reasons = []
    full = f"{tool.upstream.name}__{tool.upstream_name}"
    if tool.name not in {full, tool.upstream_name}:
        reasons.append(Reason("name", Outcome.IGNORED, f"The name is too long and is cut to '{tool.name}'."))
    if holds.policy.search_mode:
        detail = "The workspace is in search mode: clients find the tool with find_tools."
        reasons.append(Reason("search_mode", Outcome.IGNORED, detail))
    return reasons


def _document(verdict: Verdict, tool: CatalogueItem | None, name: str | None) -> FoundDocument:
    return {
        "name": name,
        "upstream": None if tool is None else tool.upstream.name,
        "upstream_tool": None if tool is None else tool.upstream_name,
        "visible": verdict.visible,
        "callable": verdict.callable,
        "required_scopes": sorted(verdict.required_scopes),
        "reasons": [
            {"check": reason.check, "outcome": reason.outcome, "detail": reason.detail} for reason in verdict.reasons
        ],
    }
