"""Who calls a route of ``/api``: its token verified and admitted once, however often a request is asked about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi.audit.models import DEPLOYMENT
from agentapi.errors import AgentAPIError
from agentapi.identity.authentication import authenticate
from agentapi.identity.permissions import Permission, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi.gateway.refusals import Refusals
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.principal import OrgId, Principal
    from agentapi.tenancy.admission import Admission

__all__ = ["audit_reader", "authorizer"]

_PRINCIPAL: Final = "agentapi.principal"
"""Where a request's own scope has its principal, once it is known."""


def authorizer(
    directory: IssuerDirectory, admission: Admission, refusals: Refusals, *, audience: str
) -> Callable[[Request], Awaitable[Principal]]:
    """Return what gives the principal of a request to the resource ``audience``."""

    async def authorize(request: Request) -> Principal:
        known: Principal | None = request.scope.get(_PRINCIPAL)
        if known is not None:
            return known
        token = None
        try:
            token = await authenticate(directory, request.scope["headers"], audience=audience)
            principal = await admission.admit(token)
        except AgentAPIError as error:
            await refusals.note(error, token)
            raise
        request.state.principal = request.scope[_PRINCIPAL] = principal
        return principal

    return authorize


def audit_reader(authorize: Callable[[Request], Awaitable[Principal]]) -> Callable[[Request], Awaitable[OrgId]]:
    """Return what says whose audit log a request may read."""

    async def reader(request: Request) -> OrgId:
        principal = await authorize(request)
        of_deployment = request.query_params.get("of") == "deployment"
        require(principal, Permission.AUDIT_READ_DEPLOYMENT if of_deployment else Permission.AUDIT_READ)
        return DEPLOYMENT if of_deployment else principal.org_id

    return reader
